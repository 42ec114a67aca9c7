import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.shm.layout import MAX_PROCESSES, MAX_WORKERS
from extproc.shm.segment import Segment
from extproc.shm.worker_table import WorkerTable

OPERATIONS = st.tuples(
    st.integers(0, MAX_PROCESSES - 1), st.integers(0, MAX_WORKERS - 1), st.integers(-3, 5) | st.none()
)


@pytest.fixture
def table() -> WorkerTable:
    return WorkerTable(Segment.create())


@given(st.lists(OPERATIONS, max_size=60))
def test_totals_are_the_sums_of_what_living_processes_hold(operations: list[tuple[int, int, int | None]]) -> None:
    table = WorkerTable(Segment.create())
    model: dict[tuple[int, int], int] = {}
    for process, worker, delta in operations:
        if delta is None:
            table.clear_column(process)
            model = {key: count for key, count in model.items() if key[0] != process}
        else:
            table.column(process).add(worker, requests=delta)
            model[process, worker] = max(model.get((process, worker), 0) + delta, 0)
    expected = [0] * MAX_WORKERS
    for (_, worker), count in model.items():
        expected[worker] += count
    assert table.in_flight() == expected
    for _, worker, _ in operations:
        assert table.requests_at(worker) == expected[worker]


def test_a_release_too_many_stops_at_zero(table: WorkerTable) -> None:
    column = table.column(2)
    column.add(7, requests=1)
    column.add(7, requests=-1)
    column.add(7, requests=-1)
    column.add(7, requests=1)
    assert (column.requests(7), table.requests_at(7)) == (1, 1)


def test_another_mapping_sees_the_same_counts() -> None:
    segment = Segment.create()
    WorkerTable(segment).column(MAX_PROCESSES - 1).add(MAX_WORKERS - 1, requests=4)
    assert WorkerTable(Segment.attach(segment.fd)).requests_at(MAX_WORKERS - 1) == 4


def test_a_worker_slot_past_the_end_is_an_error_and_touches_no_other_column(table: WorkerTable) -> None:
    with pytest.raises(IndexError):
        table.column(0).add(MAX_WORKERS * 5, requests=1)
    assert not any(table.in_flight())
