"""What is known of a prompt once it is tokenized."""

from typing import Literal, NamedTuple

from extproc.index.block_hash import Hashes, Ids

CacheResult = Literal["level_0", "level_1", "miss", "off", "given", "text"]
"""Where the ids come from: the whole prompt was cached; its beginning was; neither; there is no cache; the client; the
bytes of the prompt's text stand in for ids that cannot be known."""


class PromptTokens(NamedTuple):
    """One prompt.

    ``ids`` are the token ids that the engine will see and ``block_hashes`` the chained hashes of its whole blocks of
    ``block_size`` tokens, starting from ``root``. ``exact`` is false where the engine adds what is not known here: the
    tokens of images and other media. ``text_bytes`` is the size of the prompt's text, ``reused_bytes`` and
    ``reused_tokens`` what of it came out of the cache.
    """

    ids: Ids
    block_hashes: Hashes
    block_size: int
    root: int
    cache: CacheResult
    exact: bool = True
    text_bytes: int = 0
    reused_bytes: int = 0
    reused_tokens: int = 0
