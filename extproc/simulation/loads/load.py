"""A load: sessions of requests, each known by its lengths and by the content of its prompt in blocks."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

BLOCK_TOKENS = 512
"""Tokens in a block of a prompt, as in the Mooncake traces."""

MAX_SECS = 366 * 86_400.0
"""Longest span of a load: what happens at intervals, such as load reports, happens at most so often."""

Blocks = npt.NDArray[np.uint64]


class Turn(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One request.

    ``blocks`` has a hash for every :data:`BLOCK_TOKENS` tokens of the prompt, the last block may have fewer. A hash
    stands for the whole prompt up to the end of its block: two prompts have the same hash at a place exactly if they
    are the same up to there, within one load. The bits of hashes are well mixed. The array cannot be written to.

    ``think_secs`` is the time from the end of the previous answer to this request; of a session's first turn it is 0
    and means nothing.
    """

    prompt_tokens: int
    answer_tokens: int
    blocks: Blocks
    think_secs: float


class Session(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Requests of which each follows the answer of the one before.

    ``starts_at`` is in seconds since the start of the load. ``key`` is what a client would send as its routing key.
    """

    starts_at: float
    key: str
    turns: Sequence[Turn]


class Load(Protocol):
    """A number of sessions over a span of time; the same ones, to the last bit, whenever they are asked for."""

    @property
    def name(self) -> str:
        """What tables and plots call it."""

    @property
    def requests(self) -> int:
        """Number of turns in all sessions."""

    @property
    def secs(self) -> float:
        """Span of the sessions' starts, from 0; at most :data:`MAX_SECS`."""

    def sessions(self) -> Iterator[Session]:
        """Give the sessions in the order of their starts, made one after the other as they are asked for."""
