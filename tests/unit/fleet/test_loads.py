import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.fleet.candidates import Candidates
from extproc.fleet.loads import FIRST_PREFILL_RATE, FIRST_REQUEST_SECS, MAX_KV_USAGE, FleetLoads, Load
from extproc.shm.worker_table import Engine, Outcome, WorkerTable
from tests.support.fleets import Clock, candidates, worker
from tests.support.segments import mapped

STALE_SECS = 5.0


class Loads:
    """A table, and the loads that are read from it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.table = WorkerTable(mapped())
        self.loads = FleetLoads(table=self.table, clock=self.clock, stale_secs=STALE_SECS)

    def scraped(self, slot: int, **numbers: float) -> None:
        for name, value in numbers.items():
            self.table.engines[slot, Engine[name.upper()]] = value
        self.table.engines[slot, Engine.SCRAPED_AT] = self.clock.now


@pytest.fixture
def shared() -> Loads:
    return Loads()


def test_columns_of_all_processes_are_added_up_in_the_order_of_the_candidates(shared: Loads) -> None:
    for process in (0, 3):
        column = shared.table.column(process)
        for slot in (7, 2, 500):
            column.add(slot, requests=slot, prefill_tokens=10 * slot, decode_tokens=1)
            column.note_sent(slot, tokens=100 * slot, blocks=1000 * slot)
    wanted = Candidates((worker(500), worker(2), worker(9), worker(7)))
    load = shared.loads.read(wanted)
    expected = np.array([1000, 4, 0, 14])
    assert load.requests.tolist() == expected.tolist()
    assert load.prefill_tokens.tolist() == (10 * expected).tolist()
    assert load.sent_tokens.tolist() == (100 * expected).tolist()
    assert load.recorded_blocks.tolist() == (1000 * expected).tolist()
    assert shared.loads.requests(wanted).tolist() == expected.tolist()
    assert shared.loads.sent_tokens(wanted).tolist() == (100 * expected).tolist()


def test_what_was_recorded_before_the_cache_was_emptied_does_not_count(shared: Loads) -> None:
    column = shared.table.column(0)
    column.note_sent(1, tokens=0, blocks=40)
    shared.table.note_emptied(1)
    column.note_sent(1, tokens=0, blocks=2)
    assert shared.loads.read(candidates(2)).recorded_blocks.tolist() == [0, 2]


def test_what_an_engine_told_is_used_until_it_is_stale(shared: Loads) -> None:
    shared.table.column(0).add(1, requests=2)
    shared.scraped(1, kv_usage=0.5, num_blocks=100, block_size=16, elsewhere=3)
    shared.clock.advance(STALE_SECS)
    load = shared.loads.read(candidates(2))
    assert load.kv_usage.tolist() == [0, 0.5]
    assert load.requests.tolist() == [0, 5]
    assert shared.loads.requests(candidates(2)).tolist() == [0, 5]
    shared.clock.advance(0.01)
    load = shared.loads.read(candidates(2))
    assert load.kv_usage.tolist() == [0, 0]
    assert load.requests.tolist() == [0, 2]
    assert shared.loads.requests(candidates(2)).tolist() == [0, 2]
    # The size of a cache does not change while nobody looks.
    assert load.capacity_tokens.tolist() == [0, 1600]


def test_a_full_cache_leaves_the_wait_finite(shared: Loads) -> None:
    shared.scraped(0, kv_usage=1.0)
    load = shared.loads.read(candidates(1))
    assert load.kv_usage.tolist() == [MAX_KV_USAGE]
    assert np.isfinite(load.expected_wait_secs()).all()


def test_first_guesses_stand_until_something_is_known(shared: Loads) -> None:
    load = shared.loads.read(candidates(3))
    assert load.prefill_rate.tolist() == [FIRST_PREFILL_RATE] * 3
    assert load.request_secs.tolist() == [FIRST_REQUEST_SECS] * 3


def test_a_rate_that_the_engine_tells_goes_before_a_learned_one(shared: Loads) -> None:
    for slot in (0, 1):
        shared.table.outcomes[slot, Outcome.PREFILL_RATE] = 5000.0
        shared.table.outcomes[slot, Outcome.REQUEST_SECS] = 0.25
    shared.scraped(1, prefill_rate=9000.0)
    load = shared.loads.read(candidates(2))
    assert load.prefill_rate.tolist() == [5000, 9000]
    assert load.request_secs.tolist() == [0.25, 0.25]


def test_no_candidates_have_no_load(shared: Loads) -> None:
    assert len(shared.loads.read(Candidates(())).expected_wait_secs()) == 0
    assert len(shared.loads.requests(Candidates(()))) == 0


AMOUNTS = st.floats(0, 1e6)
RATES = st.floats(1.0, 1e6)


def load_of(numbers: list[float], *, rate: float, secs: float) -> Load:
    requests, prefill, usage = numbers
    zero = np.zeros(1)
    return Load(
        requests=np.array([requests]),
        prefill_tokens=np.array([prefill]),
        sent_tokens=zero,
        kv_usage=np.array([usage]),
        capacity_tokens=zero,
        recorded_blocks=zero,
        prefill_rate=np.array([rate]),
        request_secs=np.array([secs]),
    )


@settings(deadline=None)
@given(
    st.tuples(AMOUNTS, AMOUNTS, st.floats(0, MAX_KV_USAGE)),
    st.tuples(AMOUNTS, AMOUNTS, st.floats(0, MAX_KV_USAGE)),
    RATES,
    st.floats(1e-4, 10),
)
def test_more_of_anything_never_shortens_the_wait(
    one: tuple[float, float, float], other: tuple[float, float, float], rate: float, secs: float
) -> None:
    less = [min(pair) for pair in zip(one, other, strict=True)]
    more = [max(pair) for pair in zip(one, other, strict=True)]
    shorter, longer = (
        float(load_of(numbers, rate=rate, secs=secs).expected_wait_secs()[0]) for numbers in (less, more)
    )
    assert 0 <= shorter <= longer


@pytest.mark.parametrize("place", range(3), ids=["requests", "tokens", "KV use"])
def test_each_of_them_lengthens_the_wait(place: int) -> None:
    less, more = [4.0, 1000.0, 0.5], [4.0, 1000.0, 0.5]
    more[place] *= 1.5
    shorter, longer = (load_of(numbers, rate=8000, secs=0.01).expected_wait_secs() for numbers in (less, more))
    assert shorter[0] < longer[0]


def test_the_wait_adds_up_in_seconds() -> None:
    wait = load_of([10, 4000, 0.5], rate=8000, secs=0.02).expected_wait_secs()
    assert wait.tolist() == pytest.approx([4000 / 8000 + 10 * 0.02 + 0.15])
