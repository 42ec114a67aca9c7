"""Workers' engines in virtual time."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from extproc.fleet.load.engine_load import EngineLoad
from extproc.simulation.timeline import Timeline


@dataclass(eq=False, kw_only=True)
class Job:
    """A request at a worker: its prompt's blocks, and how long its answer takes after the first byte."""

    hashes: list[int]
    block_size: int
    answer_secs: float
    first_byte: Callable[[], None]
    end: Callable[[], None]


class Engine(Protocol):
    """A worker's engine."""

    def take(self, job: Job) -> None:
        """Serve a request: call its ``first_byte``, later its ``end``."""

    def load(self) -> EngineLoad:
        """What its metrics say."""


class _Caching:
    """Keeps every block that it ever computed, and computes the others at ``prefill_rate`` tokens a second.

    ``overhead`` draws what else goes before a first byte, in seconds.
    """

    def __init__(self, timeline: Timeline, *, prefill_rate: float, overhead: Callable[[], float] = lambda: 0.0) -> None:
        self._timeline = timeline
        self._prefill_rate = prefill_rate
        self._overhead = overhead
        self._cached: set[int] = set()
        self._running = 0
        self._prefills = 0
        self._prefill_tokens = 0
        self._prefill_secs = 0.0

    def load(self) -> EngineLoad:
        return EngineLoad(
            running=self._running,
            waiting=self._count_waiting(),
            computed_tokens=self._prefill_tokens,
            prefill_requests=self._prefills,
            prefill_tokens=self._prefill_tokens,
            prefill_secs=self._prefill_secs,
        )

    def _count_waiting(self) -> int:
        return 0

    def _begin(self, job: Job, *, after: float = 0.0) -> float:
        """Serve a request ``after`` so many seconds; return when it ends, in seconds from now."""
        new = [block for block in job.hashes if block not in self._cached]
        self._cached.update(new)
        tokens = len(new) * job.block_size
        secs = tokens / self._prefill_rate
        self._prefills += 1
        self._prefill_tokens += tokens
        self._prefill_secs += secs
        first_byte_secs = after + secs + self._overhead()
        self._running += 1
        self._timeline.after(first_byte_secs, job.first_byte)
        self._timeline.after(first_byte_secs + job.answer_secs, self._one_less)
        self._timeline.after(first_byte_secs + job.answer_secs, job.end)
        return first_byte_secs + job.answer_secs

    def _one_less(self) -> None:
        self._running -= 1


class Serial(_Caching):
    """One request at a time, first come, first served: a second one waits for the whole of the first."""

    def __init__(self, timeline: Timeline, *, prefill_rate: float, overhead: Callable[[], float] = lambda: 0.0) -> None:
        super().__init__(timeline, prefill_rate=prefill_rate, overhead=overhead)
        self._queue: deque[Job] = deque()

    def take(self, job: Job) -> None:
        self._queue.append(job)
        if not self._running:
            self._next()

    def _next(self) -> None:
        if self._queue:
            self._timeline.after(self._begin(self._queue.popleft()), self._next)

    def _count_waiting(self) -> int:
        return len(self._queue)


class Parallel(_Caching):
    """Any number of requests at once, none slowed down by another."""

    def take(self, job: Job) -> None:
        self._begin(job)


class Batching(_Caching):
    """Computes one prompt at a time, and generates any number of answers beside it, as an engine that batches."""

    def __init__(self, timeline: Timeline, *, prefill_rate: float, overhead: Callable[[], float] = lambda: 0.0) -> None:
        super().__init__(timeline, prefill_rate=prefill_rate, overhead=overhead)
        self._free_at = 0.0
        self._waiting = 0

    def take(self, job: Job) -> None:
        now = self._timeline.now
        wait = max(self._free_at - now, 0.0)
        self._free_at = now + self._begin(job, after=wait) - job.answer_secs
        self._waiting += 1
        self._timeline.after(wait, self._one_less_waiting)

    def load(self) -> EngineLoad:
        load = super().load()
        return msgspec.structs.replace(load, running=load.running - self._waiting, waiting=self._waiting)

    def _one_less_waiting(self) -> None:
        self._waiting -= 1
