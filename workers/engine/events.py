"""What an engine's cache gains and loses, for whoever follows it; in the order of vLLM's KV-cache events."""

from typing import NamedTuple

from workers.engine.request import Request


class Stored(NamedTuple):
    """Some ``blocks`` of a request are cached, from its block ``first`` on."""

    request: Request
    first: int
    blocks: int

    @property
    def hashes(self) -> tuple[int, ...]:
        """The hashes of these blocks."""
        return tuple(self.request.hashes[self.first : self.first + self.blocks])

    @property
    def parent(self) -> int | None:
        """The hash of the block before them; None at the start of the prompt."""
        return self.request.hashes[self.first - 1] if self.first else None


class Removed(NamedTuple):
    """One copy of a cached block is gone."""

    block_hash: int


class Cleared(NamedTuple):
    """Everything that was cached is gone."""


CacheEvent = Stored | Removed | Cleared
