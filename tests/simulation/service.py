"""A service in virtual time: routers that decide and account as in production, an observer, engines, clients.

Everything that a router does is the real thing, on one shared segment: its policy, its accounting, what it learns from
answers; and so is what the observer makes of an engine's metrics. Only engines, clients and the clock are made up.
Events happen one after the other, so a run with the same seed is the same to the last number, and nothing waits.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from extproc.api.request import RoutingRequest
from extproc.config.policies import PolicyParameters
from extproc.fleet.candidates import Candidates
from extproc.fleet.worker import Worker, WorkerKey
from extproc.policies.base import Reason
from extproc.policies.registry import POLICIES
from extproc.shm.layout import Quantity
from extproc.simulation.replica import Replica
from extproc.simulation.timeline import Timeline, VirtualClock
from tests.simulation.engines import Engine, Job
from tests.support.fleets import workers

OK = 200
READ_SECS = 1.0
"""How often the observer reads an engine's metrics."""
SWEEP_SECS = 0.25
"""How often a router gives back what is due."""
HEADERS_SECS = 0.02
"""When the headers of a streamed answer come, whatever its prompt."""
SAMPLE_SECS = 0.0137
"""How often the loads are looked at; no round number, so that it is not the beat of requests that take one."""


@dataclass
class Result:
    """What a run showed after its warm-up."""

    first_byte_secs: list[float] = field(default_factory=list)
    chosen: list[tuple[str, Reason]] = field(default_factory=list)
    samples: list[npt.NDArray[np.int64]] = field(default_factory=list)
    in_flight_at_end: int = -1

    @property
    def mean_first_byte_secs(self) -> float:
        return sum(self.first_byte_secs) / len(self.first_byte_secs)

    @property
    def affinity(self) -> float:
        """Share of the requests at the worker that got most."""
        counts = Counter(worker for worker, _ in self.chosen)
        return max(counts.values()) / len(self.chosen)

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

    ``request`` makes a request from the seconds since the start, ``answer_secs`` draws how long its answer takes after
    the first byte. The headers of ``streamed`` answers come at once, those of others with the end. The first
    ``warm_up_secs`` are not looked at; clients stop after ``secs``. Without ``metrics`` engines tell nothing of
    themselves.
    """

    def __init__(
        self,
        *,
        policy: str,
        engine: Callable[[Timeline], Engine],
        request: Callable[[random.Random, float], RoutingRequest],
        answer_secs: Callable[[random.Random], float],
        clients: int,
        worker_count: int,
        streamed: bool,
        routers: int = 4,
        secs: float = 20.0,
        warm_up_secs: float = 5.0,
        seed: int = 0,
        metrics: bool = True,
    ) -> None:
        clock = VirtualClock()
        self.timeline = Timeline(clock)
        self.result = Result()
        self._workers = workers(worker_count)
        self._candidates = Candidates(self._workers)
        self._engines = [engine(self.timeline) for _ in self._workers]
        self.replica = Replica(
            make_policy=POLICIES[policy],
            parameters=PolicyParameters(),
            workers=self._workers,
            clock=clock,
            seed=seed,
            routers=routers,
            prefix_index_bytes=1 << 22,
        )
        self._routers = self.replica.routers
        self._make_request = request
        self._answer_secs = answer_secs
        self._clients = clients
        self._streamed = streamed
        self._metrics = metrics
        self._rng = random.Random(seed)
        started = self.timeline.now
        self._started, self._warm_at, self._stop_at = started, started + warm_up_secs, started + secs

    def run(self) -> Result:
        """Run to the end of the last answer."""
        for _ in range(self._clients):
            self.timeline.after(0.0, self._send)
        if self._metrics:
            for worker in self._workers:
                self.timeline.after(self._rng.random() * READ_SECS, partial(self._read_metrics, worker.key))
        self.timeline.after(self._warm_at - self.timeline.now, self._sample)
        self.timeline.after(SWEEP_SECS, self._sweep)
        self.timeline.run()
        in_flight = self.replica.table.columns[:, : Quantity.SENT_TOKENS]
        self.result.in_flight_at_end = int(abs(in_flight).sum())
        return self.result

    @property
    def _over(self) -> bool:
        return self.timeline.now >= self._stop_at

    def _send(self) -> None:
        if self._over:
            return
        router = self._rng.choice(self._routers)
        request = self._make_request(self._rng, self.timeline.now - self._started)
        choice, flight = router.send(request, self._candidates)
        sent_at = self.timeline.now
        if sent_at >= self._warm_at:
            self.result.chosen.append((flight.worker.id, choice.reason))

        def first_byte() -> None:
            if sent_at >= self._warm_at:
                self.result.first_byte_secs.append(self.timeline.now - sent_at)

        def headers() -> None:
            router.accounts.answered(flight, status=OK, served="", streamed=self._streamed)

        def end() -> None:
            headers()
            router.accounts.finish(flight)
            self.timeline.after(0.0, self._send)

        if self._streamed:
            self.timeline.after(HEADERS_SECS, headers)
        prompt = request.prompts[0]
        self._engines[flight.worker.slot].take(
            Job(
                hashes=prompt.block_hashes.tolist(),
                block_size=prompt.block_size,
                answer_secs=self._answer_secs(self._rng),
                first_byte=first_byte,
                end=end,
            )
        )

    def _read_metrics(self, key: WorkerKey) -> None:
        if not self._over:
            worker: Worker = next(worker for worker in self._workers if worker.key == key)
            self.replica.read(key, self._engines[worker.slot].load())
            self.timeline.after(READ_SECS, partial(self._read_metrics, key))

    def _sweep(self) -> None:
        self.replica.sweep()
        if not self._over or any(self.replica.table.in_flight()):
            self.timeline.after(SWEEP_SECS, self._sweep)

    def _sample(self) -> None:
        if not self._over:
            self.result.samples.append(np.array(self.replica.table.in_flight()[: len(self._workers)]))
            self.timeline.after(SAMPLE_SECS, self._sample)
