from collections.abc import Iterator
from time import monotonic, monotonic_ns

import pytest

from extproc.index.prefix_index import PrefixIndex
from extproc.observer.state import SharedState
from extproc.shm.fleet import FleetDocument
from extproc.shm.layout import Part
from extproc.shm.processes import ProcessState, ProcessTable, Role
from extproc.shm.segment import Segment
from extproc.shm.worker_table import WorkerTable
from tests.support.fleets import prompt, segment_with_index, worker


@pytest.fixture
def segment() -> Iterator[Segment]:
    segment = segment_with_index()
    yield segment
    segment.close()


def index_of(segment: Segment) -> PrefixIndex:
    return PrefixIndex(memory=segment.part(Part.PREFIX_INDEX), clock=monotonic)


def shared_state(segment: Segment) -> SharedState:
    return SharedState(
        document=FleetDocument(segment),
        token_store=None,
        table=WorkerTable(segment),
        prefixes=index_of(segment),
        processes=ProcessTable(segment),
        workers=lambda: (worker(0),),
    )


def test_shows_every_claimed_row(segment: Segment) -> None:
    row = ProcessTable(segment).claim(role=Role.ROUTER, index=3, now_ns=monotonic_ns() - 2_000_000_000)
    assert row is not None
    row.pid, row.active_streams, row.total_streams, row.fleet_generation = 77, 5, 500, 9
    state = shared_state(segment)
    (status,) = state.processes()
    assert (status.role, status.index, status.pid, status.state, status.ready) == ("router", 3, 77, "starting", False)
    assert (status.streams_active, status.streams_total, status.fleet_generation) == (5, 500, 9)
    assert status.heartbeat_age_secs >= 2
    row.state = ProcessState.READY
    assert state.processes()[0].ready


def test_a_row_released_while_the_table_is_read_is_left_out(segment: Segment) -> None:
    table = ProcessTable(segment)
    claimed = [table.claim(role=Role.ROUTER, index=index, now_ns=0) for index in range(2)]

    class Releasing(ProcessTable):
        def rows(self):  # type: ignore[no-untyped-def]  # noqa: ANN202
            rows = list(super().rows())
            self.release(claimed[0].slot)  # type: ignore[union-attr]
            return iter(rows)

    state = SharedState(
        document=FleetDocument(segment),
        token_store=None,
        table=WorkerTable(segment),
        prefixes=index_of(segment),
        processes=Releasing(segment),
        workers=tuple,
    )
    assert [status.index for status in state.processes()] == [1]


def test_shows_the_in_flight_sums_and_the_generation(segment: Segment) -> None:
    state = shared_state(segment)
    assert state.fleet_generation == 0
    WorkerTable(segment).column(0).add(4, requests=2)
    WorkerTable(segment).column(1).add(4, requests=3)
    FleetDocument(segment).publish(b"{}")
    assert state.in_flight()[4] == 5
    assert state.fleet_generation == 1
    assert state.workers() == (worker(0),)


def test_shows_how_full_the_prefix_index_is(segment: Segment) -> None:
    state = shared_state(segment)
    assert state.prefix_index().blocks == 0
    index_of(segment).record(prompt(160).block_hashes, 3)
    assert (state.prefix_index().blocks, state.prefix_index().capacity_blocks) == (10, ((1 << 16) - 256) // 288 * 8)
