"""The process table: who is there, how it fares, how loaded it is.

::

    row s, for the process in slot s, 16 words                 written by
    word 0   state            ProcessState                     supervisor (claim, release), then the process
    word 1   role             Role                             supervisor
    word 2   index            which router it is               supervisor
    word 3   pid                                               supervisor
    word 4   started_ns       time.monotonic_ns()              supervisor
    word 5   heartbeat_ns     time.monotonic_ns()              the process, from its event loop
    word 6   active_streams   open now                         the process
    word 7   total_streams    since it started                 the process
    word 8   shared_streams   load on the shared address       the process
    word 9   fleet_generation the fleet it routes by           the process
    word 10  recording        whose requests it still holds    the process
    11..15   zero

Everybody reads. A torn read cannot happen: a word is read whole, and each means something alone. Two words of one row
may belong to different moments, and the row of a dead process may be claimed for another between two reads; readers
sum and compare, so that is at worst one wrong sample.

On claiming, the state is written last; on releasing, it is cleared first. So the words of a row that is not FREE belong
to the process it was claimed for. A row is released only after its process is reaped: a late writer cannot exist.
"""

from enum import IntEnum

from extproc.shm.layout import (
    MAX_PROCESSES,
    PROCESS_ROW_WORDS,
    PROCESSES_BYTES,
    PROCESSES_OFFSET,
    SUPERVISOR_SLOT,
)
from extproc.shm.segment import Segment

_STATE, _ROLE, _INDEX, _PID, _STARTED, _HEARTBEAT, _ACTIVE, _TOTAL, _SHARED, _FLEET, _RECORDING = range(11)
assert _RECORDING < PROCESS_ROW_WORDS, "a row has room for its fields"


class ProcessState(IntEnum):
    """Where a process is in its life."""

    FREE = 0
    """The row belongs to nobody."""
    STARTING = 1
    READY = 2
    DRAINING = 3
    """It finishes what it has and takes nothing new."""
    FAILED = 4
    """It is about to end because of a fault."""


class Role(IntEnum):
    """What a process does."""

    SUPERVISOR = 1
    ROUTER = 2
    OBSERVER = 3


class ProcessRow:
    """One row of the table; reading or writing a field is one memory access."""

    __slots__ = ("_words", "slot")

    def __init__(self, slot: int, words: memoryview) -> None:
        self.slot = slot
        self._words = words

    @property
    def state(self) -> ProcessState:
        """Where the process is in its life."""
        return ProcessState(self._words[_STATE])

    @state.setter
    def state(self, value: ProcessState) -> None:
        self._words[_STATE] = value

    @property
    def role(self) -> Role:
        """What the process does. Raises ``ValueError`` on a FREE row."""
        return Role(self._words[_ROLE])

    @property
    def index(self) -> int:
        """Which one of its role it is; a successor has the index of the process it replaces."""
        return self._words[_INDEX]

    @property
    def pid(self) -> int:
        """Its process id; 0 until it is spawned."""
        return self._words[_PID]

    @pid.setter
    def pid(self, value: int) -> None:
        self._words[_PID] = value

    @property
    def started_ns(self) -> int:
        """When the row was claimed, on the monotonic clock."""
        return self._words[_STARTED]

    @property
    def heartbeat_ns(self) -> int:
        """When its event loop last ran, on the monotonic clock."""
        return self._words[_HEARTBEAT]

    @heartbeat_ns.setter
    def heartbeat_ns(self, value: int) -> None:
        self._words[_HEARTBEAT] = value

    @property
    def active_streams(self) -> int:
        """Streams open now."""
        return self._words[_ACTIVE]

    @active_streams.setter
    def active_streams(self, value: int) -> None:
        self._words[_ACTIVE] = value

    @property
    def total_streams(self) -> int:
        """Streams opened since it started."""
        return self._words[_TOTAL]

    @total_streams.setter
    def total_streams(self, value: int) -> None:
        self._words[_TOTAL] = value

    @property
    def shared_streams(self) -> int:
        """Load on the address that all routers share, in streams."""
        return self._words[_SHARED]

    @shared_streams.setter
    def shared_streams(self, value: int) -> None:
        self._words[_SHARED] = value

    @property
    def fleet_generation(self) -> int:
        """The generation of the fleet it routes by; 0 before the first."""
        return self._words[_FLEET]

    @fleet_generation.setter
    def fleet_generation(self, value: int) -> None:
        self._words[_FLEET] = value

    @property
    def recording(self) -> int:
        """The number of the recording of which it has not written everything; 0 when there is none."""
        return self._words[_RECORDING]

    def begin_recording(self, number: int) -> None:
        """Note that there is something to write."""
        self._words[_RECORDING] = number

    def end_recording(self) -> None:
        """Note that everything is written."""
        self._words[_RECORDING] = 0

    def _claim(self, *, role: Role, index: int, now_ns: int) -> None:
        words = self._words
        words[_ROLE], words[_INDEX], words[_STARTED], words[_HEARTBEAT] = role, index, now_ns, now_ns
        words[_STATE] = ProcessState.STARTING

    def _clear(self) -> None:
        for word in range(PROCESS_ROW_WORDS):
            self._words[word] = 0


class ProcessTable:
    """The rows of all processes."""

    def __init__(self, segment: Segment) -> None:
        words = segment.words(PROCESSES_OFFSET, PROCESSES_BYTES)
        self._states = words[_STATE::PROCESS_ROW_WORDS]
        self._rows = tuple(
            ProcessRow(slot, words[slot * PROCESS_ROW_WORDS : (slot + 1) * PROCESS_ROW_WORDS])
            for slot in range(MAX_PROCESSES)
        )

    def claim(self, *, role: Role, index: int, now_ns: int) -> ProcessRow | None:
        """Take a free row for a process about to be spawned, or return None while there is none.

        Only the supervisor calls this. Its own row is ``SUPERVISOR_SLOT``.
        """
        slots = (SUPERVISOR_SLOT,) if role is Role.SUPERVISOR else range(SUPERVISOR_SLOT)
        for slot in slots:
            if self._states[slot] == ProcessState.FREE:
                self._rows[slot]._claim(role=role, index=index, now_ns=now_ns)  # noqa: SLF001 - the table's own row
                return self._rows[slot]
        return None

    def release(self, slot: int) -> None:
        """Clear a row. Only the supervisor calls this, after it has reaped the process."""
        self._rows[slot]._clear()  # noqa: SLF001 - the table's own row

    def row(self, slot: int) -> ProcessRow:
        """Return one row, claimed or not."""
        return self._rows[slot]

    def rows(self) -> list[ProcessRow]:
        """Every row that is not FREE, by slot."""
        return [self._rows[slot] for slot, state in enumerate(self._states.tolist()) if state != ProcessState.FREE]
