"""Circuit breakers: what failed requests say of a worker, shared by all routers.

::

    closed ──failures in a row──► open ──time is up──► half-open ──a request succeeds──► closed
                                   ▲                      │
                                   └──────it fails────────┘   each time for twice as long, up to a limit

The state lies in the worker's outcome row (``shm/worker_table.py``); every router reads and writes it, so a failure
that one router sees counts for all at once. While a breaker is half-open one request is sent there, its trial, not
several: at any moment only one router may do so (they take turns by the clock), and it does not while another trial is
under way. A trial whose outcome nobody ever sees gives the way free after a time, so a breaker always recovers. Only a
trial opens a breaker for longer: whatever else fails there was sent before it opened.
"""

from collections.abc import Callable

import numpy as np

from extproc.config.fleet import FleetSettings
from extproc.fleet.candidates import Candidates, PerCandidates
from extproc.shm.layout import OUTCOME_ROW_NUMBERS
from extproc.shm.worker_table import Outcome, WorkerTable

TURN_SECS = 0.1
"""How long it is one router's turn to try half-open workers."""
DECISION_SECS = 0.02
"""How long before the end of its turn a router begins no trial: it is the next one's turn when it has decided."""
_MOST_DOUBLINGS = 30


class Breakers:
    """The breakers as one router sees them. ``clock`` is that of the table, in seconds.

    ``rank`` and ``routers`` say whose turn it is: this router's place among all that are ready. They may be changed.
    ``on_ignored`` is called when every candidate's breaker is open, so that they are used in spite of it.
    """

    def __init__(
        self,
        *,
        table: WorkerTable,
        settings: FleetSettings,
        clock: Callable[[], float],
        on_ignored: Callable[[], None] = lambda: None,
    ) -> None:
        self._table = table
        self._numbers = table.outcome_numbers
        self._threshold = settings.breaker_failures
        self._open_secs = settings.breaker_open_secs
        self._max_open_secs = settings.breaker_max_open_secs
        self._probe_secs = settings.breaker_probe_secs
        self._clock = clock
        self._on_ignored = on_ignored
        self._seen = -1
        self._open: frozenset[int] = frozenset()
        self._filtered: PerCandidates[tuple[list[int], Candidates]] = PerCandidates()
        self.rank = 0
        self.routers = 1

    def usable(self, candidates: Candidates) -> Candidates:
        """Leave out workers whose breaker is open; the same object when there are none.

        With no other left all of them are returned: trying is better than refusing. Whoever chooses one of them calls
        :meth:`try_out` at once.
        """
        if self._threshold and self._table.breaker_changes != self._seen:
            self._look()
        if not self._open:
            return candidates
        left = [at for at, worker in enumerate(candidates.workers) if not self._is_shut(worker.slot)]
        if len(left) == len(candidates.workers):
            return candidates
        if not left:
            self._on_ignored()
            return candidates
        known = self._filtered.get(candidates)
        if known is not None and known[0] == left:
            return known[1]
        return self._filtered.keep(candidates, (left, candidates.only(left)))[1]

    @property
    def any_open(self) -> bool:
        """Whether any breaker was open or half-open at the last look at candidates."""
        return bool(self._open)

    def is_open(self, slot: int) -> bool:
        """Whether a worker's breaker is open or half-open."""
        return self._threshold > 0 and self._numbers[_at(slot, Outcome.OPEN_UNTIL)] > 0

    def try_out(self, slot: int) -> float:
        """Note that a request goes to a worker, and return what :meth:`give_up` wants if it is a trial, else 0."""
        if slot not in self._open:
            return 0.0
        now = self._clock()
        open_until = self._numbers[_at(slot, Outcome.OPEN_UNTIL)]
        if not 0 < open_until <= now or self._on_trial(slot, now):
            return 0.0
        self._numbers[_at(slot, Outcome.PROBED_AT)] = now
        return now

    def give_up(self, slot: int, trial: float) -> None:
        """Note that nothing will be known of a request, for which ``try_out`` returned ``trial``."""
        if trial and self._numbers[_at(slot, Outcome.PROBED_AT)] == trial:
            self._numbers[_at(slot, Outcome.PROBED_AT)] = 0.0

    def succeeded(self, slot: int) -> None:
        """Note a good answer."""
        numbers = self._numbers
        if numbers[_at(slot, Outcome.FAILURES)]:
            numbers[_at(slot, Outcome.FAILURES)] = 0.0
        if numbers[_at(slot, Outcome.OPEN_UNTIL)] and self._clock() >= numbers[_at(slot, Outcome.OPEN_UNTIL)]:
            for number in (Outcome.OPEN_UNTIL, Outcome.OPENED, Outcome.PROBED_AT):
                numbers[_at(slot, number)] = 0.0
            self._table.note_breaker_change()

    def failed(self, slot: int) -> None:
        """Note a failure: no connection, a connection that broke before the answer, or a 5xx answer."""
        if not self._threshold:
            return
        numbers = self._numbers
        now = self._clock()
        open_until = numbers[_at(slot, Outcome.OPEN_UNTIL)]
        if not open_until:
            failures = numbers[_at(slot, Outcome.FAILURES)] + 1
            numbers[_at(slot, Outcome.FAILURES)] = failures
            if failures >= self._threshold:
                self._open_for_a_time(slot, now)
        elif now >= open_until and numbers[_at(slot, Outcome.PROBED_AT)]:
            self._open_for_a_time(slot, now)
        elif slot not in self._open:
            # Whoever opened it may have been killed before it could tell.
            self._table.note_breaker_change()

    def _open_for_a_time(self, slot: int, now: float) -> None:
        numbers = self._numbers
        opened = numbers[_at(slot, Outcome.OPENED)]
        numbers[_at(slot, Outcome.OPENED)] = min(opened + 1, _MOST_DOUBLINGS)
        numbers[_at(slot, Outcome.PROBED_AT)] = 0.0
        numbers[_at(slot, Outcome.OPEN_UNTIL)] = now + min(self._open_secs * 2**opened, self._max_open_secs)
        self._table.note_breaker_change()

    def _look(self) -> None:
        self._seen = self._table.breaker_changes
        self._open = frozenset(np.flatnonzero(self._table.outcomes[:, Outcome.OPEN_UNTIL]).tolist())

    def _is_shut(self, slot: int) -> bool:
        if slot not in self._open:
            return False
        open_until = self._numbers[_at(slot, Outcome.OPEN_UNTIL)]
        if not open_until:
            return False
        now = self._clock()
        if now < open_until:
            return True
        turn, since = divmod(now, TURN_SECS)
        if (int(turn) + slot) % self.routers != self.rank or since > TURN_SECS - DECISION_SECS:
            return True
        return self._on_trial(slot, now)

    def _on_trial(self, slot: int, now: float) -> bool:
        probed_at: float = self._numbers[_at(slot, Outcome.PROBED_AT)]
        return probed_at > 0 and now - probed_at < self._probe_secs


def _at(slot: int, number: Outcome) -> int:
    return slot * OUTCOME_ROW_NUMBERS + number
