import pytest

from extproc.shm.layout import MAX_PROCESSES, SUPERVISOR_SLOT
from extproc.shm.processes import ProcessRow, ProcessState, ProcessTable, Role
from extproc.shm.segment import Segment

FIELDS = ("pid", "heartbeat_ns", "active_streams", "total_streams", "shared_streams", "fleet_generation")


@pytest.fixture
def segment() -> Segment:
    return Segment.create()


@pytest.fixture
def table(segment: Segment) -> ProcessTable:
    return ProcessTable(segment)


def claimed(table: ProcessTable, *, role: Role = Role.ROUTER, index: int = 0) -> ProcessRow:
    row = table.claim(role=role, index=index, now_ns=17)
    assert row is not None
    return row


def test_a_claimed_row_says_who_it_is_for(table: ProcessTable) -> None:
    row = claimed(table, index=3)
    assert (row.slot, row.role, row.index, row.state, row.pid) == (0, Role.ROUTER, 3, ProcessState.STARTING, 0)
    assert (row.started_ns, row.heartbeat_ns) == (17, 17)


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_written_by_one_mapping_is_read_by_another(segment: Segment, table: ProcessTable, name: str) -> None:
    row = claimed(table)
    setattr(row, name, 2**64 - 1)
    other = ProcessTable(segment).row(row.slot)
    assert getattr(other, name) == 2**64 - 1
    assert [field for field in FIELDS if getattr(other, field) == 2**64 - 1] == [name]


def test_states_are_told_apart(table: ProcessTable) -> None:
    row = claimed(table)
    for state in ProcessState:
        row.state = state
        assert row.state is state


def test_rows_lists_claimed_rows_by_slot(table: ProcessTable) -> None:
    first, second, third = claimed(table), claimed(table, index=1), claimed(table, role=Role.OBSERVER)
    table.release(second.slot)
    assert [row.slot for row in table.rows()] == [first.slot, third.slot]


def test_a_released_row_is_all_zero_and_claimed_again_first(table: ProcessTable) -> None:
    row = claimed(table)
    claimed(table, index=1)
    for name in FIELDS:
        setattr(row, name, 9)
    table.release(row.slot)
    assert (row.state, [getattr(row, name) for name in FIELDS]) == (ProcessState.FREE, [0] * len(FIELDS))
    assert claimed(table, index=2).slot == row.slot


def test_children_never_get_the_supervisors_slot(table: ProcessTable) -> None:
    slots = [claimed(table).slot for _ in range(MAX_PROCESSES - 1)]
    assert SUPERVISOR_SLOT not in slots
    assert table.claim(role=Role.ROUTER, index=0, now_ns=1) is None
    assert claimed(table, role=Role.SUPERVISOR).slot == SUPERVISOR_SLOT
    assert table.claim(role=Role.SUPERVISOR, index=0, now_ns=1) is None


def test_a_row_tells_whose_requests_its_process_still_has_to_write(table: ProcessTable) -> None:
    row = claimed(table)
    row.begin_recording(1 << 63)
    assert table.row(row.slot).recording == 1 << 63
    row.end_recording()
    assert row.recording == 0
    row.begin_recording(5)
    table.release(row.slot)
    assert row.recording == 0
