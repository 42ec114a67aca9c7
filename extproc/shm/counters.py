"""Numbers that all processes count up together, without a lock.

::

    process slot 0    [ counter 0 ] [ counter 1 ] ... [ counter 15 ]     written by process 0 alone
    process slot 1    [ counter 0 ] ...
    value of counter c = sum of its 64 cells, modulo 2**64

Each process writes its own cells; everybody reads, by summing. A torn read: every cell is read whole, but another
process may count while the cells are summed, so two processes counting at the same moment may get the same value, or
leave one out. That suits a round robin, which only has to be even in the long run; do not number things with it.

Cells outlive their process: a successor in the same slot goes on from them, so a value does not fall back when a
process is replaced.
"""

from extproc.shm.layout import COUNTERS, COUNTERS_BYTES, COUNTERS_OFFSET, MAX_PROCESSES
from extproc.shm.segment import Segment

_WORD_MASK = (1 << 64) - 1


class SharedCounter:
    """One counter, seen from one process."""

    __slots__ = ("_cells", "_own")

    def __init__(self, segment: Segment, *, counter: int, process_slot: int) -> None:
        if not 0 <= counter < COUNTERS or not 0 <= process_slot < MAX_PROCESSES:
            raise ValueError(f"no counter {counter} for process slot {process_slot}")
        self._cells = segment.words(COUNTERS_OFFSET, COUNTERS_BYTES)[counter::COUNTERS]
        self._own = process_slot

    def next(self) -> int:
        """Return the value, then count one up."""
        cells = self._cells
        value = sum(cells.tolist())
        cells[self._own] = (cells[self._own] + 1) & _WORD_MASK
        return value & _WORD_MASK
