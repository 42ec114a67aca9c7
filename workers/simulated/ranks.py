"""Data-parallel ranks: several engines behind one port."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from workers.simulated.engine import Engine, Run, Work


class RankedEngine:
    """Gives each request to the engine that it asks for, else to one with the fewest requests; the first of equals.

    ``engines`` are those of the ranks, in order.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = engines

    @property
    def in_flight(self) -> int:
        """Requests in flight, over all ranks."""
        return sum(engine.in_flight for engine in self._engines)

    def check(self, work: Work) -> None:
        """Raise ``ApiError`` for work that cannot be done; all ranks are alike."""
        self._engines[0].check(work)

    def word(self, token: int) -> str:
        """The text of token number ``token`` of any answer."""
        return self._engines[0].word(token)

    def admit(self, work: Work) -> AbstractAsyncContextManager[Run]:
        """Hold a place for ``work`` in an engine."""
        if work.rank is not None:
            return self._engines[work.rank].admit(work)
        return min(self._engines, key=lambda engine: engine.in_flight).admit(work)

    def clear_cache(self) -> None:
        """Forget the prefix caches of all ranks."""
        for engine in self._engines:
            engine.clear_cache()

    def event_sources(self) -> Mapping[str, Any]:
        """Where the events of the prefix caches can be had, by rank."""
        return {
            str(rank): source for rank, engine in enumerate(self._engines) for source in engine.event_sources().values()
        }

    def close(self) -> None:
        """Close all engines."""
        for engine in self._engines:
            engine.close()
