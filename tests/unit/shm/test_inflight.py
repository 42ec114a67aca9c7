import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.shm.inflight import InFlight
from extproc.shm.layout import MAX_PROCESSES, MAX_WORKERS
from extproc.shm.segment import Segment

OPERATIONS = st.tuples(
    st.integers(0, MAX_PROCESSES - 1), st.integers(0, MAX_WORKERS - 1), st.integers(-3, 5) | st.none()
)


@pytest.fixture
def in_flight() -> InFlight:
    return InFlight(Segment.create())


@given(st.lists(OPERATIONS, max_size=60))
def test_totals_are_the_sums_of_what_living_processes_hold(operations: list[tuple[int, int, int | None]]) -> None:
    in_flight = InFlight(Segment.create())
    model: dict[tuple[int, int], int] = {}
    for process, worker, delta in operations:
        if delta is None:
            in_flight.clear(process)
            model = {key: count for key, count in model.items() if key[0] != process}
        else:
            in_flight.column(process).add(worker, delta)
            model[process, worker] = max(model.get((process, worker), 0) + delta, 0)
    expected = [0] * MAX_WORKERS
    for (_, worker), count in model.items():
        expected[worker] += count
    assert in_flight.totals() == expected
    for _, worker, _ in operations:
        assert in_flight.total(worker) == expected[worker]


def test_a_release_too_many_stops_at_zero(in_flight: InFlight) -> None:
    column = in_flight.column(2)
    column.add(7, 1)
    column.add(7, -1)
    column.add(7, -1)
    column.add(7, 1)
    assert (column.count(7), in_flight.total(7)) == (1, 1)


def test_another_mapping_sees_the_same_counts() -> None:
    segment = Segment.create()
    InFlight(segment).column(MAX_PROCESSES - 1).add(MAX_WORKERS - 1, 4)
    assert InFlight(Segment.attach(segment.fd)).total(MAX_WORKERS - 1) == 4


def test_a_worker_slot_past_the_end_is_an_error_and_touches_no_other_column(in_flight: InFlight) -> None:
    with pytest.raises(IndexError):
        in_flight.column(0).add(MAX_WORKERS, 1)
    assert not any(in_flight.totals())
