"""How long an attempt at a worker may go without response headers before the data plane tries another worker.

A worker that hangs (a stopped process, a dead machine) takes requests and never answers; only a limit on each attempt
gets them back. It must never cut short a request that is merely long, so it follows from what the request is: a
streamed answer sends its headers soon, another one only when it is complete, which takes as long as its tokens take.
Where that cannot be known there is no limit.
"""

from extproc.api.request import RoutingRequest
from extproc.routing.accounting import Flight
from extproc.shm.worker_table import Engine, WorkerTable

CAUTION = 4
"""An attempt may take this many times as long as expected, besides the base."""
SLOW_STEP_SECS = 0.05
"""Time for a token of an answer, at least; engines that are learned to be faster may be slower under load."""
MAX_SECS = 3600


class Patience:
    """Limits for the requests of one router; ``base_secs`` 0 is none."""

    def __init__(self, *, table: WorkerTable, base_secs: float) -> None:
        self._table = table
        self._base_secs = base_secs

    def attempt_secs(self, request: RoutingRequest, flight: Flight) -> int:
        """Return the limit in whole seconds, one of few values; 0 is none."""
        body = request.body
        if not self._base_secs or body is None:
            return 0
        slot = flight.worker.slot
        expected_secs = flight.done_at - flight.started
        if not body.stream and body.has_answer:
            tokens = body.answer_tokens(0)
            if not tokens:
                return 0
            step_secs = max(float(self._table.engines[slot, Engine.DECODE_STEP_SECS]), SLOW_STEP_SECS)
            expected_secs += tokens * step_secs
        secs = self._base_secs + CAUTION * expected_secs
        # Doubling, so that the replies which carry it are few and can be kept.
        limit = self._base_secs
        while limit < secs:
            limit *= 2
        return 0 if limit > MAX_SECS else max(1, round(limit))
