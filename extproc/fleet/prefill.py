"""What computing prompts takes of a worker: work in tokens, and the queue of it as a moment in time.

**Work** is counted in token equivalents. A new token costs as much as a first one, and more by the context that it
attends to, so a prompt of 100,000 tokens is the work of far more than ten of 10,000.

**The queue** of a worker is one number in its outcome row, the moment until which it is expected to compute what was
sent to it. A request moves it on by its own part, and time alone gives that back: what is half computed counts half,
and a router that is killed leaves nothing behind. Any router writes it; of two that do so at the same moment one may be
lost, and the queue looks shorter by that request until it is done.
"""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from extproc.shm.layout import OUTCOME_ROW_NUMBERS
from extproc.shm.worker_table import Outcome, WorkerTable

N = TypeVar("N", float, npt.NDArray[np.float64])

MAX_QUEUE_SECS = 600.0
"""How far ahead a queue may reach: what was foretold by a wrong rate is forgotten after that."""

_BUSY_UNTIL = int(Outcome.BUSY_UNTIL)


def work_tokens(new: N, cached: N, *, attention_tokens: float) -> N:
    """Return the work of computing ``new`` tokens after ``cached`` ones; with so many before it a token costs double.

    A new token attends to all that is cached and, in the mean, to half of the new ones.
    """
    return new * (1.0 + (cached + new / 2) / attention_tokens)


class PrefillQueues:
    """The queues of all workers, for one process. Times are seconds of the table's clock."""

    __slots__ = ("_numbers",)

    def __init__(self, table: WorkerTable) -> None:
        self._numbers = table.outcome_numbers

    def put(self, slot: int, secs: float, *, now: float) -> tuple[float, float]:
        """Queue a prompt that takes ``secs``; return when the worker begins with it, and when it should be done."""
        at = slot * OUTCOME_ROW_NUMBERS + _BUSY_UNTIL
        begins_at: float = self._numbers[at]
        begins_at = max(begins_at, now)
        done_at = begins_at + secs
        if done_at > now + MAX_QUEUE_SECS:
            done_at = now + MAX_QUEUE_SECS
            begins_at = min(begins_at, done_at)
        self._numbers[at] = done_at
        return begins_at, done_at

    def give_back(self, slot: int, begins_at: float, done_at: float, *, now: float) -> None:
        """Take out what is left of a prompt that was to be computed between two moments."""
        secs = done_at - max(begins_at, now)
        if secs > 0:
            at = slot * OUTCOME_ROW_NUMBERS + _BUSY_UNTIL
            self._numbers[at] = max(self._numbers[at] - secs, now)
