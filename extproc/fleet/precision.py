"""How well predictions of cached tokens agree with what workers report: a running average in a worker's outcome row.

Written by whichever router has compared; of two that do so at the same moment one comparison may be lost. The observer
reads it, and sets it back to nothing where it draws a conclusion.
"""

from extproc.shm.layout import OUTCOME_ROW_NUMBERS
from extproc.shm.worker_table import Outcome, WorkerTable

STEP = 1 / 32
LEAST = 1e-9
"""What stands for no agreement at all, as 0 stands for not known."""


def agreement(predicted: int, reported: int, *, block_size: int) -> float:
    """Return how well two numbers of tokens agree: 1 when they are equal, 0 when one of them says nothing of it."""
    return 1.0 - abs(predicted - reported) / max(predicted, reported, block_size)


class Precisions:
    """The precision of all workers, for one process."""

    __slots__ = ("_numbers",)

    def __init__(self, table: WorkerTable) -> None:
        self._numbers = table.outcome_numbers

    def learn(self, slot: int, agreed: float) -> None:
        """Take one comparison; the first ones count alike, so that no single one of them is believed too much."""
        at = slot * OUTCOME_ROW_NUMBERS
        known: float = self._numbers[at + Outcome.PRECISION]
        samples: float = self._numbers[at + Outcome.PRECISION_SAMPLES]
        weight = max(STEP, 1 / (samples + 1))
        self._numbers[at + Outcome.PRECISION] = max(known + weight * (agreed - known), LEAST)
        self._numbers[at + Outcome.PRECISION_SAMPLES] = samples + 1
