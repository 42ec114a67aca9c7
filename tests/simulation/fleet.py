"""A fleet in virtual time: routers that decide and account as in production, workers that take their time, clients.

Everything that a router does is the real thing, on one shared segment: its policies, its accounting, what it learns
from answers. Only workers, clients and the clock are made up. Events happen one after the other, so a run with the same
seed is the same to the last number, and nothing waits.
"""

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from extproc.api.request import RoutingRequest
from extproc.config.policies import PolicyParameters
from extproc.fleet.candidates import Candidates
from extproc.policies.base import Needs, Reason
from extproc.policies.registry import POLICIES
from extproc.routing.accounting import Flight
from tests.support.fleets import Shared, workers

OK = 200


class Timeline:
    """What happens when: callbacks in order of their time, and of their making where the time is the same."""

    def __init__(self, shared: Shared) -> None:
        self._clock = shared.clock
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._made = 0

    @property
    def now(self) -> float:
        return self._clock.now

    def after(self, secs: float, event: Callable[[], None]) -> None:
        self._made += 1
        heapq.heappush(self._events, (self._clock.now + secs, self._made, event))

    def run(self) -> None:
        """Let everything happen until nothing is left to come."""
        while self._events:
            self._clock.now, _, event = heapq.heappop(self._events)
            event()


@dataclass(eq=False)
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


class _Caching:
    """Keeps every block that it ever computed, and computes the others at ``prefill_rate`` tokens a second."""

    def __init__(self, timeline: Timeline, *, prefill_rate: float, jitter=lambda: 0.0) -> None:
        self._timeline = timeline
        self._prefill_rate = prefill_rate
        self._jitter = jitter
        self._cached: set[int] = set()

    def _prefill_secs(self, job: Job) -> float:
        new = [block for block in job.hashes if block not in self._cached]
        self._cached.update(new)
        return len(new) * job.block_size / self._prefill_rate + self._jitter()


class Serial(_Caching):
    """One request at a time, first come, first served: a second one waits for the whole of the first."""

    def __init__(self, timeline: Timeline, *, prefill_rate: float, jitter=lambda: 0.0) -> None:
        super().__init__(timeline, prefill_rate=prefill_rate, jitter=jitter)
        self._waiting: deque[Job] = deque()
        self._busy = False

    def take(self, job: Job) -> None:
        self._waiting.append(job)
        if not self._busy:
            self._next()

    def _next(self) -> None:
        self._busy = bool(self._waiting)
        if self._busy:
            job = self._waiting.popleft()
            prefill_secs = self._prefill_secs(job)
            self._timeline.after(prefill_secs, job.first_byte)
            self._timeline.after(prefill_secs + job.answer_secs, job.end)
            self._timeline.after(prefill_secs + job.answer_secs, self._next)


class Parallel(_Caching):
    """Any number of requests at once, none slowed down by another."""

    def take(self, job: Job) -> None:
        prefill_secs = self._prefill_secs(job)
        self._timeline.after(prefill_secs, job.first_byte)
        self._timeline.after(prefill_secs + job.answer_secs, job.end)


class Batching(_Caching):
    """Computes one prompt at a time, and generates any number of answers beside it, as an engine that batches."""

    def __init__(self, timeline: Timeline, *, prefill_rate: float, jitter=lambda: 0.0) -> None:
        super().__init__(timeline, prefill_rate=prefill_rate, jitter=jitter)
        self._free_at = 0.0

    def take(self, job: Job) -> None:
        now = self._timeline.now
        self._free_at = max(self._free_at, now) + self._prefill_secs(job)
        self._timeline.after(self._free_at - now, job.first_byte)
        self._timeline.after(self._free_at - now + job.answer_secs, job.end)


class Router:
    """One router process: its policy and its accounting."""

    def __init__(self, shared: Shared, *, policy: str, slot: int, seed: int, parameters: PolicyParameters) -> None:
        self.policy = POLICIES[policy](shared.context(process_slot=slot, seed=seed, parameters=parameters))
        self.accounts = shared.accounts(process_slot=slot)
        self._record = self.policy.needs >= Needs.TOKENS

    def send(self, request: RoutingRequest, candidates: Candidates) -> tuple[Flight, Reason]:
        """Decide and account, as ``routing/director.py`` does."""
        choice = self.policy.choose(request, candidates)
        return self.accounts.start(request, choice, record=self._record), choice.reason


@dataclass
class Result:
    """What a run showed. Times of idleness and in-flight counts are those after the warm-up."""

    first_byte_secs: list[float] = field(default_factory=list)
    served: Counter[str] = field(default_factory=Counter)
    reasons: Counter[Reason] = field(default_factory=Counter)
    samples: list[npt.NDArray[np.int64]] = field(default_factory=list)
    in_flight_at_end: int = -1

    @property
    def mean_first_byte_secs(self) -> float:
        return sum(self.first_byte_secs) / len(self.first_byte_secs)

    @property
    def affinity(self) -> float:
        """Share of the requests at the worker that got most."""
        return self.served.most_common(1)[0][1] / self.served.total()

    @property
    def idle_share(self) -> float:
        """Share of the workers that had nothing to do, over time."""
        return float((np.array(self.samples) == 0).mean())

    @property
    def imbalances(self) -> npt.NDArray[np.float64]:
        """Maximum over mean of the requests in flight to each worker, at each sample."""
        samples = np.array(self.samples)
        ratios: npt.NDArray[np.float64] = samples.max(axis=1) / samples.mean(axis=1)
        return ratios


class Simulation:
    """Routers in front of workers, and clients that each send the next request when the last one is answered.

    ``request`` makes a request from its number, ``answer_secs`` draws how long its answer takes. The first
    ``warm_up_secs`` are not looked at; clients stop after ``secs``.
    """

    def __init__(
        self,
        *,
        policy: str,
        engine: Callable[[Timeline], Engine],
        request: Callable[[random.Random], RoutingRequest],
        answer_secs: Callable[[random.Random], float],
        clients: int,
        worker_count: int,
        routers: int = 4,
        secs: float = 30.0,
        warm_up_secs: float = 10.0,
        seed: int = 0,
        parameters: PolicyParameters | None = None,
    ) -> None:
        self.shared = Shared(prefix_index_bytes=1 << 22)
        self.timeline = Timeline(self.shared)
        self._candidates = Candidates(workers(worker_count))
        self._engines = [engine(self.timeline) for _ in range(worker_count)]
        self._routers = [
            Router(
                self.shared,
                policy=policy,
                slot=slot,
                seed=seed * routers + slot,
                parameters=parameters or PolicyParameters(),
            )
            for slot in range(routers)
        ]
        self._make_request = request
        self._answer_secs = answer_secs
        self._clients = clients
        self._rng = random.Random(seed)
        started = self.timeline.now
        self._warm_at, self._stop_at = started + warm_up_secs, started + secs
        self.result = Result()

    def run(self) -> Result:
        """Run to the end of the last answer."""
        for _ in range(self._clients):
            self.timeline.after(0.0, self._send)
        self.timeline.after(self._warm_at - self.timeline.now, self._sample)
        self.timeline.run()
        table = self.shared.table
        self.result.in_flight_at_end = int(abs(table.columns[:, :3]).sum())
        return self.result

    def _send(self) -> None:
        if self.timeline.now >= self._stop_at:
            return
        router = self._rng.choice(self._routers)
        request = self._make_request(self._rng)
        flight, reason = router.send(request, self._candidates)
        sent_at = self.timeline.now
        warm = sent_at >= self._warm_at
        if warm:
            self.result.served[flight.worker.id] += 1
            self.result.reasons[reason] += 1

        def first_byte() -> None:
            router.accounts.answered(flight, status=OK, served="", streamed=False)
            if warm:
                self.result.first_byte_secs.append(self.timeline.now - sent_at)

        def end() -> None:
            router.accounts.finish(flight)
            self.timeline.after(0.0, self._send)

        prompt = request.prompts[0]
        self._engines[flight.worker.slot].take(
            Job(prompt.block_hashes.tolist(), prompt.block_size, self._answer_secs(self._rng), first_byte, end)
        )

    def _sample(self) -> None:
        if self.timeline.now < self._stop_at:
            slots = len(self._candidates)
            self.result.samples.append(np.array(self.shared.table.in_flight()[:slots]))
            self.timeline.after(SAMPLE_SECS, self._sample)


SAMPLE_SECS = 0.0137
"""No round number, so that samples do not fall on the beat of requests that take one."""
