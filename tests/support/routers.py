"""The breakers of several routers on one table, with one clock."""

from extproc.config.fleet import FleetSettings
from extproc.fleet.breaker import Breakers
from extproc.fleet.candidates import Candidates
from extproc.shm.layout import OUTCOME_ROW_NUMBERS
from extproc.shm.worker_table import Outcome, WorkerTable
from tests.support.fleets import Clock, candidates
from tests.support.segments import mapped

FAILURES = 3
OPEN_SECS, MAX_OPEN_SECS, PROBE_SECS = 1.0, 8.0, 5.0
SICK = 0
"""The slot of the worker that breaks."""


class Routers:
    """So many routers, each with breakers of its own, before ``workers`` of which that in slot ``SICK`` breaks."""

    def __init__(self, count: int = 1, *, workers: int = 2, failures: int = FAILURES) -> None:
        self.table = WorkerTable(mapped())
        self.clock = Clock()
        self.ignored = 0
        self.candidates = candidates(workers)
        self.breakers = [self._make(failures) for _ in range(count)]
        for rank, breakers in enumerate(self.breakers):
            breakers.rank, breakers.routers = rank, count

    def _make(self, failures: int) -> Breakers:
        settings = FleetSettings(
            breaker_failures=failures,
            breaker_open_secs=OPEN_SECS,
            breaker_max_open_secs=MAX_OPEN_SECS,
            breaker_probe_secs=PROBE_SECS,
        )
        return Breakers(table=self.table, settings=settings, clock=self.clock, on_ignored=self._ignore)

    def _ignore(self) -> None:
        self.ignored += 1

    def usable(self, router: int = 0) -> Candidates:
        return self.breakers[router].usable(self.candidates)

    def sees(self, router: int = 0, slot: int = SICK) -> bool:
        """Whether a router may send a request to a worker."""
        return any(worker.slot == slot for worker in self.usable(router))

    def seen_by(self) -> list[int]:
        """The routers that may send a request to the worker that breaks."""
        return [router for router in range(len(self.breakers)) if self.sees(router)]

    def open(self, slot: int = SICK) -> None:
        """Let a worker fail until its breaker is open."""
        for _ in range(FAILURES):
            self.breakers[0].failed(slot)

    def number(self, number: Outcome, slot: int = SICK) -> float:
        found: float = self.table.outcome_numbers[slot * OUTCOME_ROW_NUMBERS + number]
        return found

    @property
    def is_open(self) -> bool:
        """Whether the breaker of the worker that breaks is open or half-open."""
        return self.number(Outcome.OPEN_UNTIL) > 0

    def begin_trial(self) -> tuple[int, float]:
        """Wait for some router's turn and send a request; return the router and the trial."""
        for _ in range(2000):
            for router in self.seen_by():
                trial = self.breakers[router].try_out(SICK)
                assert trial
                return router, trial
            self.clock.advance(0.01)
        raise AssertionError("it is nobody's turn")
