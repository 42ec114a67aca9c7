"""Requests in flight, by worker, over all processes.

::

                     worker slot 0   1   2  ...  1023
    process slot 0          [ 3 ] [ 0 ] [ 1 ]         column of process 0: written by it alone
    process slot 1          [ 2 ] [ 0 ] [ 0 ]         column of process 1
    ...
    process slot 63
    in flight to worker       5     0     1           the sum, by whoever reads

A process writes its own column and nobody else's, so nothing is lost without a lock. Everybody reads, by summing. A
torn read: every cell is read whole, but the cells of a sum are read one after the other, so a sum may be a request old
by the time it is used. When a process dies its column goes with it: the supervisor clears it before the slot is used
again.
"""

from extproc.shm.layout import IN_FLIGHT_BYTES, IN_FLIGHT_OFFSET, MAX_PROCESSES, MAX_WORKERS, WORD_BYTES
from extproc.shm.segment import Segment

_COLUMN_BYTES = MAX_WORKERS * WORD_BYTES
_ZEROS = bytes(_COLUMN_BYTES)


class InFlightColumn:
    """The share of one process, written by that process."""

    __slots__ = ("_cells",)

    def __init__(self, cells: memoryview) -> None:
        self._cells = cells

    def add(self, worker_slot: int, delta: int) -> None:
        """Count requests up or down.

        A cell stops at zero: one release too many would otherwise wrap around and make the worker look overloaded
        until the process ends.
        """
        count = self._cells[worker_slot] + delta
        self._cells[worker_slot] = max(count, 0)

    def count(self, worker_slot: int) -> int:
        """What this process alone has in flight to a worker."""
        return self._cells[worker_slot]


class InFlight:
    """All columns."""

    def __init__(self, segment: Segment) -> None:
        self._bytes = segment.buffer[IN_FLIGHT_OFFSET : IN_FLIGHT_OFFSET + IN_FLIGHT_BYTES]
        self._cells = segment.words(IN_FLIGHT_OFFSET, IN_FLIGHT_BYTES)

    def column(self, process_slot: int) -> InFlightColumn:
        """Return the column of one process."""
        return InFlightColumn(self._cells[process_slot * MAX_WORKERS : (process_slot + 1) * MAX_WORKERS])

    def total(self, worker_slot: int) -> int:
        """Requests in flight to one worker."""
        return sum(self._cells[worker_slot::MAX_WORKERS].tolist())

    def totals(self) -> list[int]:
        """Requests in flight to every worker, by worker slot; idle columns cost next to nothing."""
        columns = [
            self._cells[slot * MAX_WORKERS : (slot + 1) * MAX_WORKERS].tolist()
            for slot in range(MAX_PROCESSES)
            if self._bytes[slot * _COLUMN_BYTES : (slot + 1) * _COLUMN_BYTES].tobytes() != _ZEROS
        ]
        return [sum(cells) for cells in zip(*columns, strict=True)] if columns else [0] * MAX_WORKERS

    def clear(self, process_slot: int) -> None:
        """Forget what a dead process had in flight. Only the supervisor calls this, after it has reaped the process."""
        self._bytes[process_slot * _COLUMN_BYTES : (process_slot + 1) * _COLUMN_BYTES] = _ZEROS
