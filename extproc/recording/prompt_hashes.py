"""Which of a prompt's block hashes stand for its blocks of 512 tokens."""

import numpy as np

from extproc.index.block_hash import Hashes
from extproc.recording.record import MAX_INPUT_TOKENS, TRACE_BLOCK_TOKENS
from extproc.tokens.prompt_tokens import PromptTokens

_MOST = MAX_INPUT_TOKENS // TRACE_BLOCK_TOKENS
_POSITION_STEP = np.uint64(0x9E3779B97F4A7C15)


def prompt_hashes(prompts: tuple[PromptTokens, ...]) -> tuple[bytes, bool]:
    """Return the hashes of the first prompt's whole blocks of 512 tokens, and whether its tail's hash comes after them.

    The tail is what is left of a prompt that is alone; its hash is that of the prompt's last whole block of the
    engine's size. Equal hashes stand for equal beginnings of prompts, and where the engine's blocks do not divide 512
    tokens, for beginnings that are equal a little longer.
    """
    if not prompts:
        return b"", False
    prompt = prompts[0]
    hashes = prompt.block_hashes
    blocks, odd = divmod(TRACE_BLOCK_TOKENS, prompt.block_size)
    whole = (_uneven(hashes, prompt.block_size) if odd else hashes[blocks - 1 :: blocks])[:_MOST]
    if len(prompts) == 1 and len(hashes) and len(whole) * TRACE_BLOCK_TOKENS < len(prompt.ids):
        return whole.tobytes() + hashes[-1:].tobytes(), True
    return whole.tobytes(), False


def _uneven(hashes: Hashes, block_size: int) -> Hashes:
    """Return, for each block of 512 tokens, the hash up to the end of the engine's block that its end falls into."""
    known = len(hashes) * block_size // TRACE_BLOCK_TOKENS
    places = np.arange(known, dtype=np.uint64)
    last = ((places + np.uint64(1)) * np.uint64(TRACE_BLOCK_TOKENS) - np.uint64(1)) // np.uint64(block_size)
    # Several ends may fall into one large block.
    return hashes[last.astype(np.int64)] + places * _POSITION_STEP
