"""The configured models: where their files are, and what turns a request to one of them into token ids.

Joins what the layers below know apart: request bodies, chat templates, tokenizers and the cache. Knows nothing of
workers.
"""
