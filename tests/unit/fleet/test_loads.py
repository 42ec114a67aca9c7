import itertools

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.fleet.candidates import Candidates
from extproc.fleet.loads import (
    ALIKE,
    APART,
    FIRST_PREFILL_RATE,
    FIRST_SEAT_SECS,
    MAX_KV_USAGE,
    RATES_LAST_SECS,
    REQUEST_SECS,
    REREAD_SECS,
    FleetLoads,
    Floats,
    Load,
    evened,
)
from extproc.shm.worker_table import Engine, Outcome, WorkerTable
from tests.support.fleets import Clock, candidates, worker
from tests.support.segments import mapped

STALE_SECS = 5.0
ATTENTION_TOKENS = 24_000.0


class Loads:
    """A table, and the loads that are read from it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.table = WorkerTable(mapped())
        self.loads = FleetLoads(
            table=self.table, clock=self.clock, stale_secs=STALE_SECS, attention_tokens=ATTENTION_TOKENS
        )

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
            column.add(slot, requests=slot, decode_tokens=1)
            column.note_sent(slot, tokens=100 * slot, blocks=1000 * slot)
    wanted = Candidates((worker(500), worker(2), worker(9), worker(7)))
    load = shared.loads.read(wanted)
    expected = np.array([1000, 4, 0, 14])
    assert load.requests.tolist() == expected.tolist()
    assert shared.loads.room(wanted).recorded_blocks.tolist() == (1000 * expected).tolist()
    assert shared.loads.requests(wanted).tolist() == expected.tolist()
    assert shared.loads.sent_tokens(wanted).tolist() == (100 * expected).tolist()


def test_a_worker_is_busy_until_its_prompts_should_be_done(shared: Loads) -> None:
    shared.table.outcomes[[2, 7], Outcome.BUSY_UNTIL] = shared.clock.now + 3, shared.clock.now - 1
    wanted = Candidates((worker(7), worker(2), worker(9)))
    assert shared.loads.read(wanted).busy_secs.tolist() == [0, 3, 0]
    shared.clock.advance(1)
    assert shared.loads.read(wanted).busy_secs.tolist() == [0, 2, 0], "time alone makes it shorter"
    shared.clock.advance(5)
    assert shared.loads.read(wanted).busy_secs.tolist() == [0, 0, 0]


def test_a_prompt_takes_its_work_at_the_rate_of_each_worker(shared: Loads) -> None:
    for slot, rate in ((0, 1000.0), (1, 8000.0)):
        shared.table.outcomes[slot, Outcome.PREFILL_RATE] = rate
    load = shared.loads.read(candidates(2))
    secs = shared.loads.prefill_secs(load, np.array([4000.0, 4000.0]), np.array([22_000.0, 0.0]))
    assert secs.tolist() == pytest.approx([4 * 2, 0.5 * (1 + 2000 / ATTENTION_TOKENS)])
    assert shared.loads.work_tokens(4000, 22_000) == pytest.approx(8000)


def test_a_rate_that_the_engine_tells_is_one_of_work_by_what_was_sent_there(shared: Loads) -> None:
    shared.table.outcomes[1, Outcome.PREFILL_STRETCH] = 2.5
    for slot in (0, 1):
        shared.scraped(slot, prefill_rate=10_000.0)
    rates = shared.loads.read(candidates(2)).prefill_rate
    assert rates.tolist() == pytest.approx(evened(np.array([10_000.0, 25_000.0]), otherwise=1.0, best=np.max).tolist())
    assert rates[1] > rates[0]


def test_the_rate_that_a_policy_was_told_is_known_by_slot_for_a_while(shared: Loads) -> None:
    for slot, rate in ((3, 10_000.0), (5, 11_000.0), (6, 90_000.0)):
        shared.table.outcomes[slot, Outcome.PREFILL_RATE] = rate
    assert shared.loads.prefill_rate_at(5, now=shared.clock.now) == 0
    told = shared.loads.read(Candidates((worker(5), worker(3), worker(6)))).prefill_rate.tolist()
    now = shared.clock.now
    assert [shared.loads.prefill_rate_at(slot, now=now) for slot in (5, 3, 6, 4)] == [*told, 0]
    assert told[0] == pytest.approx(told[1]), "the noise of one worker is evened out"
    assert shared.loads.prefill_rate_at(5, now=now + RATES_LAST_SECS) == 0
    shared.clock.advance(RATES_LAST_SECS)
    shared.loads.read_one(Candidates((worker(5), worker(9))), 1)
    assert shared.loads.prefill_rate_at(5, now=shared.clock.now) == pytest.approx(11_000)


def test_what_was_recorded_before_the_cache_was_emptied_does_not_count(shared: Loads) -> None:
    column = shared.table.column(0)
    column.note_sent(1, tokens=0, blocks=40)
    shared.table.note_emptied(1)
    column.note_sent(1, tokens=0, blocks=2)
    assert shared.loads.room(candidates(2)).recorded_blocks.tolist() == [0, 2]


def test_what_an_engine_told_is_used_until_it_is_stale(shared: Loads) -> None:
    shared.table.column(0).add(1, requests=2)
    shared.scraped(1, kv_usage=0.5, num_blocks=100, block_size=16, elsewhere=3)
    shared.clock.advance(STALE_SECS)
    load = shared.loads.read(candidates(2))
    assert load.kv_usage.tolist() == [0, 0.5]
    assert load.told.tolist() == [0, 1]
    assert load.requests.tolist() == [0, 5]
    assert shared.loads.requests(candidates(2)).tolist() == [0, 5]
    shared.clock.advance(0.01)
    load = shared.loads.read(candidates(2))
    assert load.kv_usage.tolist() == [0, 0]
    assert load.told.tolist() == [0, 0]
    assert load.requests.tolist() == [0, 2]
    assert shared.loads.requests(candidates(2)).tolist() == [0, 2]
    # The size of a cache does not change while nobody looks.
    assert shared.loads.room(candidates(2)).capacity_tokens.tolist() == [0, 1600]


def test_a_full_cache_leaves_the_wait_finite(shared: Loads) -> None:
    shared.scraped(0, kv_usage=1.0)
    load = shared.loads.read(candidates(1))
    assert load.kv_usage.tolist() == [MAX_KV_USAGE]
    assert np.isfinite(load.expected_wait_secs()).all()


def test_first_guesses_stand_until_something_is_known(shared: Loads) -> None:
    shared.scraped(1, seats=2)
    shared.table.column(0).add(1, requests=5)
    load = shared.loads.read(candidates(3))
    assert load.prefill_rate.tolist() == [FIRST_PREFILL_RATE] * 3
    assert load.queue_secs.tolist() == [0, 4 * FIRST_SEAT_SECS, 0]


def test_a_rate_that_the_engine_tells_goes_before_a_learned_one(shared: Loads) -> None:
    for slot in (0, 1):
        shared.table.outcomes[slot, Outcome.PREFILL_RATE] = 5000.0
    shared.scraped(1, prefill_rate=90_000.0)
    assert shared.loads.read(candidates(2)).prefill_rate.tolist() == pytest.approx([5000, 90_000])


def test_what_answers_seemed_to_say_of_an_engine_that_will_tell_is_worth_less_than_what_others_tell(
    shared: Loads,
) -> None:
    shared.table.outcomes[0, Outcome.PREFILL_RATE] = 500.0
    shared.scraped(0)
    assert shared.loads.read(candidates(2)).prefill_rate.tolist() == [500, 500]
    shared.scraped(1, prefill_rate=9000.0)
    assert shared.loads.read(candidates(2)).prefill_rate.tolist() == [9000, 9000]


def test_requests_queue_where_there_are_more_than_seats(shared: Loads) -> None:
    shared.table.outcomes[0, Outcome.SEAT_SECS] = 0.1
    shared.table.column(0).add(0, requests=3)
    alone = candidates(1)
    assert shared.loads.read(alone).queue_secs.tolist() == [0]
    for seats, queued in ((1, 3), (3, 1), (4, 0), (9, 0)):
        shared.scraped(0, seats=seats)
        shared.clock.advance(REREAD_SECS)
        assert shared.loads.read(alone).queue_secs.tolist() == pytest.approx([queued * 0.1])


def test_a_worker_never_seen_full_has_as_many_seats_as_others_or_as_it_runs(shared: Loads) -> None:
    """Else it would look free for ever so many requests, and get them all."""
    shared.scraped(0, seats=2)
    shared.scraped(1, running=5)
    for slot in (0, 1, 2):
        shared.table.outcomes[slot, Outcome.SEAT_SECS] = 0.5
        shared.table.column(0).add(slot, requests=6)
    assert shared.loads.read(candidates(3)).queue_secs.tolist() == pytest.approx([2.5, 1.0, 2.5])


def test_learned_speeds_are_looked_at_again_after_a_while(shared: Loads) -> None:
    everyone = candidates(2)
    assert shared.loads.read(everyone).prefill_rate.tolist() == [FIRST_PREFILL_RATE] * 2
    shared.table.outcomes[0, Outcome.PREFILL_RATE] = 5000.0
    shared.clock.advance(REREAD_SECS)
    assert shared.loads.read(everyone).prefill_rate.tolist() == [5000] * 2


@settings(deadline=None)
@given(st.data())
def test_one_candidate_is_read_as_among_all(data: st.DataObject) -> None:
    shared, everyone = Loads(), candidates(4)
    for slot in range(4):
        shared.table.column(slot % 2).add(slot, requests=data.draw(st.integers(0, 9)))
        shared.table.outcomes[slot, Outcome.BUSY_UNTIL] = shared.clock.now + data.draw(
            st.sampled_from([-1.0, 0.0, 7.0])
        )
        names = ("kv_usage", "elsewhere", "running", "seats", "prefill_rate")
        shared.scraped(slot, **{name: data.draw(st.sampled_from([0.0, 0.5, 3.0])) for name in names})
        shared.table.outcomes[slot, Outcome.SEAT_SECS] = data.draw(st.sampled_from([0.0, 0.1]))
        shared.table.engines[slot, Engine.SCRAPED_AT] -= data.draw(st.sampled_from([0.0, STALE_SECS + 1]))
    load = shared.loads.read(everyone)
    for position in range(4):
        one = shared.loads.read_one(everyone, position)
        assert one == Load(*[float(numbers[position]) for numbers in msgspec.structs.astuple(load)])
        assert one.expected_wait_secs() == pytest.approx(float(load.expected_wait_secs()[position]))


def even(*numbers: float) -> list[float]:
    evened_out: list[float] = evened(np.array(numbers), otherwise=7.0, best=np.max).tolist()
    return evened_out


def test_alike_workers_are_taken_for_equal() -> None:
    assert even(10, 11, 9, 10 * ALIKE) == pytest.approx([10, 10, 10, 10])
    assert even(10, 10, 10 * APART, 10 / APART) == pytest.approx([10, 10, 10 * APART, 10 / APART])
    middling, *_, between = even(10, 10, 10, 10 * (ALIKE + APART) / 2)
    assert middling < between < 10 * (ALIKE + APART) / 2


def test_of_two_kinds_of_workers_each_keeps_its_own() -> None:
    assert even(10, 10, 80, 80) == pytest.approx([10, 10, 80, 80])


def test_a_worker_of_which_nothing_is_known_is_taken_for_the_best() -> None:
    assert even(0, 10, 90) == pytest.approx([90, 10, 90])
    assert even(0, 0) == [7, 7]


@given(st.lists(st.floats(1e-6, 1e7) | st.just(0.0), min_size=1, max_size=30))
def test_evening_out_keeps_the_order_and_stays_within_what_is_known(numbers: list[float]) -> None:
    known = [number for number in numbers if number] or [7.0]
    out = even(*numbers)
    assert all(min(known) * 0.999 <= number <= max(known) * 1.001 for number in out)
    pairs = sorted((before, after) for before, after in zip(numbers, out, strict=True) if before)
    assert all(one[1] <= other[1] * 1.000001 for one, other in itertools.pairwise(pairs))


def test_no_candidates_have_no_load(shared: Loads) -> None:
    assert len(shared.loads.read(Candidates(())).expected_wait_secs()) == 0
    assert len(shared.loads.requests(Candidates(()))) == 0


AMOUNTS = st.floats(0, 1e6)


def load_of(numbers: list[float]) -> Load[Floats]:
    requests, busy, usage, queue = [np.array([number]) for number in numbers]
    return Load(
        requests=requests,
        busy_secs=busy,
        kv_usage=usage,
        told=np.ones(1),
        queue_secs=queue,
        prefill_rate=np.ones(1),
    )


@settings(deadline=None)
@given(
    st.tuples(AMOUNTS, AMOUNTS, st.floats(0, MAX_KV_USAGE), AMOUNTS),
    st.tuples(AMOUNTS, AMOUNTS, st.floats(0, MAX_KV_USAGE), AMOUNTS),
)
def test_more_of_anything_never_shortens_the_wait(one: tuple[float, ...], other: tuple[float, ...]) -> None:
    less = [min(pair) for pair in zip(one, other, strict=True)]
    more = [max(pair) for pair in zip(one, other, strict=True)]
    shorter, longer = (float(load_of(numbers).expected_wait_secs()[0]) for numbers in (less, more))
    assert 0 <= shorter <= longer


@pytest.mark.parametrize("place", range(4), ids=["requests", "prompts", "KV use", "queue"])
def test_each_of_them_lengthens_the_wait(place: int) -> None:
    less, more = [4.0, 0.2, 0.5, 0.1], [4.0, 0.2, 0.5, 0.1]
    more[place] *= 1.5
    shorter, longer = (load_of(numbers).expected_wait_secs() for numbers in (less, more))
    assert shorter[0] < longer[0]


def test_the_wait_adds_up_in_seconds() -> None:
    wait = load_of([10, 0.5, 0.5, 0.3]).expected_wait_secs()
    assert wait.tolist() == pytest.approx([0.5 + 0.3 + 10 * REQUEST_SECS + 0.15])
