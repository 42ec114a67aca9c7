"""Prompts whose tokens cannot be known, keyed by the bytes of their text instead.

A body's pieces of prompt are laid end to end, what a conversation adds to last; four bytes stand for a token, and the
block hashes follow as they do from token ids. Prompts that begin alike have equal hashes for as long as they are equal,
which is all that routing by prefix needs.
"""

import numpy as np

from extproc.api.body import RequestBody
from extproc.index.block_hash import block_hashes, root_hash
from extproc.policies.base import BYTES_PER_TOKEN
from extproc.tokens.prompt_tokens import PromptTokens

TEXT_BLOCK_TOKENS = 16
MAX_TEXT_BYTES = 1 << 20
"""What of a text is looked at; it takes about 2 ms, during which the router does nothing else."""


def text_prompt(body: RequestBody, model: str) -> tuple[PromptTokens, ...]:
    """Return the prompt of a body for the model called ``model``; none where it has no text to go by."""
    parts = body.prompt_parts()
    if parts is None:
        return ()
    grows = body.growing_part
    # Without its last byte, the bracket or quote that stands somewhere else once the conversation has grown.
    growing = parts[grows][: min(len(parts[grows]) - 1, MAX_TEXT_BYTES)]
    text = b"".join((*parts[:grows], *parts[grows + 1 :], growing))[:MAX_TEXT_BYTES]
    ids = np.frombuffer(text, np.uint32, len(text) // BYTES_PER_TOKEN)
    root = root_hash(model=model, cache_salt=body.cache_salt or "")
    hashes = block_hashes(ids, block_size=TEXT_BLOCK_TOKENS, before=root)
    return (PromptTokens(ids, hashes, TEXT_BLOCK_TOKENS, root, "text", exact=False, text_bytes=len(text)),)
