"""From text to token ids: encoders, safe boundaries, and the two-level cache.

No knowledge of workers, requests or chat templates. The only files read here are those of a tokenizer.
"""
