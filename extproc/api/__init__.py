"""Request bodies: which paths carry a model and a prompt, and how they are read.

One module per API family, each with the smallest typed view of its body; fields that routing does not need are skipped
by the decoder and are none of our business. No I/O, and nothing here knows of workers.
"""
