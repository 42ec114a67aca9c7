"""The work of prompts, and the queues that they make of a worker's time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.fleet.prefill import MAX_QUEUE_SECS, PrefillQueues, work_tokens
from extproc.shm.segment import Segment
from extproc.shm.worker_table import Outcome, WorkerTable
from tests.support.segments import mapped

SLOT = 1023
NOW = 50.0
TOKENS = st.integers(0, 1 << 20)


class Queues:
    """The queues of a table, for one process."""

    def __init__(self) -> None:
        self.table = WorkerTable(mapped())
        self.queues = PrefillQueues(self.table)

    @property
    def busy_until(self) -> float:
        return float(self.table.outcomes[SLOT, Outcome.BUSY_UNTIL])


@pytest.fixture
def shared() -> Queues:
    return Queues()


def test_a_token_is_twice_the_work_after_so_many_others() -> None:
    assert work_tokens(1, 24_000, attention_tokens=24_000) == pytest.approx(2, rel=1e-4)
    assert work_tokens(0, 24_000, attention_tokens=24_000) == 0
    assert work_tokens(96_000, 0, attention_tokens=24_000) == 96_000 * 3


@given(TOKENS, TOKENS, TOKENS)
def test_a_prompt_in_two_parts_is_as_much_work_as_in_one(cached: int, first: int, second: int) -> None:
    def work(new: int, before: int) -> float:
        return work_tokens(new, before, attention_tokens=20_000)

    assert work(first, cached) + work(second, cached + first) == pytest.approx(work(first + second, cached))


def test_many_are_reckoned_at_once() -> None:
    new, cached = np.array([10.0, 4000.0]), np.array([50_000.0, 0.0])
    expected = [work_tokens(*pair, attention_tokens=9000) for pair in zip(new.tolist(), cached.tolist(), strict=True)]
    assert work_tokens(new, cached, attention_tokens=9000).tolist() == pytest.approx(expected)


def test_prompts_are_computed_one_after_the_other(shared: Queues) -> None:
    assert shared.queues.put(SLOT, 2.0, now=NOW) == (NOW, NOW + 2)
    assert shared.queues.put(SLOT, 3.0, now=NOW + 1) == (NOW + 2, NOW + 5)
    assert np.count_nonzero(shared.table.outcomes) == 1


def test_time_alone_gives_a_prompt_back(shared: Queues) -> None:
    shared.queues.put(SLOT, 2.0, now=NOW)
    assert shared.queues.put(SLOT, 1.0, now=NOW + 1.5) == (NOW + 2, NOW + 3), "half a second is left"
    assert shared.queues.put(SLOT, 1.0, now=NOW + 9) == (NOW + 9, NOW + 10)


@pytest.mark.parametrize(
    ("at", "left"),
    [(0.5, 3.0), (2.5, 2.5), (4.5, 0.5), (6.0, 0.0)],
    ids=["before it begins", "as it begins", "in work", "done"],
)
def test_only_what_is_left_of_a_prompt_is_taken_out(shared: Queues, at: float, left: float) -> None:
    """It is to be computed from 2 to 5; then comes another, of one second."""
    shared.queues.put(SLOT, 2.0, now=NOW)
    begins_at, done_at = shared.queues.put(SLOT, 3.0, now=NOW)
    shared.queues.put(SLOT, 1.0, now=NOW)
    shared.queues.give_back(SLOT, begins_at, done_at, now=NOW + at)
    assert shared.busy_until == pytest.approx(NOW + 6 - left)


def test_nothing_is_taken_out_of_what_is_over(shared: Queues) -> None:
    begins_at, done_at = shared.queues.put(SLOT, 5.0, now=NOW)
    shared.table.reset_rows(SLOT)
    shared.queues.give_back(SLOT, begins_at, done_at, now=NOW + 1)
    assert shared.queues.put(SLOT, 1.0, now=NOW + 1) == (NOW + 1, NOW + 2)


def test_a_wrong_rate_keeps_no_worker_busy_for_long(shared: Queues) -> None:
    assert shared.queues.put(SLOT, 1e9, now=NOW) == (NOW, NOW + MAX_QUEUE_SECS)
    begins_at, done_at = shared.queues.put(SLOT, 1e9, now=NOW)
    assert begins_at == done_at == NOW + MAX_QUEUE_SECS
    shared.queues.give_back(SLOT, begins_at, done_at, now=NOW)
    assert shared.busy_until == NOW + MAX_QUEUE_SECS, "it had no part of the time any more"


def test_a_router_that_is_killed_leaves_nothing_that_time_does_not_give_back() -> None:
    segment = Segment.create()
    killed, other = (PrefillQueues(WorkerTable(Segment.attach(segment.fd))) for _ in range(2))
    killed.put(SLOT, 2.0, now=NOW)
    WorkerTable(segment).clear_column(0)
    assert other.put(SLOT, 1.0, now=NOW) == (NOW + 2, NOW + 3)
    assert other.put(SLOT, 1.0, now=NOW + 4) == (NOW + 4, NOW + 5)
    segment.close()


@given(
    st.lists(st.tuples(st.sampled_from(["put", "give back"]), st.floats(0, 700), st.floats(0, 5)), max_size=30),
)
def test_a_queue_is_what_was_put_less_what_was_given_back_and_what_time_has_done(
    steps: list[tuple[str, float, float]],
) -> None:
    """Against a list of the seconds that are left of each prompt, the first of which are done first."""
    shared, now = Queues(), NOW
    parts: list[tuple[float, float]] = []
    for step, secs, pause in steps:
        before = max(shared.busy_until - now, 0.0)
        if step == "put":
            begins_at, done_at = shared.queues.put(SLOT, secs, now=now)
            assert begins_at - now == pytest.approx(min(before, MAX_QUEUE_SECS))
            assert done_at - now == pytest.approx(min(before + secs, MAX_QUEUE_SECS))
            parts.append((begins_at, done_at))
        elif parts:
            begins_at, done_at = parts.pop(0)
            shared.queues.give_back(SLOT, begins_at, done_at, now=now)
            left = max(min(done_at - begins_at, done_at - now), 0.0)
            assert max(shared.busy_until - now, 0.0) == pytest.approx(max(before - left, 0.0), abs=1e-6)
        now += pause
    assert shared.busy_until <= now + MAX_QUEUE_SECS
