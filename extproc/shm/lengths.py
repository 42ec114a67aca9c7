"""How long prompts are, over all processes: tokens sent, by class of length.

::

    process slot 0    [ class 0 | class 1 | ... | class 63 ]    tokens of prompts by class, written by process 0 alone
    process slot 1    ...

Class ``4 * e + f`` holds the prompts of ``2**e * (1 + f/4)`` tokens and more, below the next class: a quarter of an
octave, as finely as ranges of lengths need. The last one holds everything longer, from 57,344 tokens. The numbers only
grow; a reader takes differences. Everybody reads, by summing; a sum may be a request old. Columns outlive their
process, so no sum ever falls.
"""

import numpy as np
import numpy.typing as npt

from extproc.shm.layout import LENGTH_CLASSES, LENGTHS_BYTES, LENGTHS_OFFSET, MAX_PROCESSES
from extproc.shm.segment import Segment

QUARTERS = 4


def class_of(tokens: int) -> int:
    """Return the class of a prompt length."""
    if tokens < 1:
        return 0
    exponent = tokens.bit_length() - 1
    quarter = (tokens * QUARTERS >> exponent) - QUARTERS
    return min(QUARTERS * exponent + quarter, LENGTH_CLASSES - 1)


def lower_bound(length_class: int) -> float:
    """Return the shortest length of a class, in tokens."""
    exponent, quarter = divmod(length_class, QUARTERS)
    return float(2**exponent * (1 + quarter / QUARTERS))


class LengthColumns:
    """The columns, seen from one process."""

    __slots__ = ("_all", "_own")

    def __init__(self, segment: Segment, *, process_slot: int) -> None:
        memory = segment.buffer[LENGTHS_OFFSET : LENGTHS_OFFSET + LENGTHS_BYTES]
        self._all = np.frombuffer(memory, np.int64).reshape(MAX_PROCESSES, LENGTH_CLASSES)
        self._own = memory.cast("q")[process_slot * LENGTH_CLASSES : (process_slot + 1) * LENGTH_CLASSES]

    def add(self, tokens: int) -> None:
        """Count a prompt."""
        self._own[class_of(tokens)] += tokens

    def totals(self) -> npt.NDArray[np.int64]:
        """Return the tokens sent so far in each class."""
        totals: npt.NDArray[np.int64] = self._all.sum(axis=0)
        return totals
