"""What is learned of synthetic workers, whose times follow from a rule."""

import math
import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.fleet.learning import (
    LONG_PROMPT_TOKENS,
    MAX_PREFILL_RATE,
    MAX_SEAT_SECS,
    MAX_SECS,
    MIN_PREFILL_RATE,
    MIN_SEAT_SECS,
    SHORT_PROMPT_TOKENS,
    SpeedLearner,
)
from extproc.fleet.loads import FIRST_PREFILL_RATE
from extproc.shm.worker_table import Engine, Outcome, WorkerTable
from tests.support.segments import mapped

SLOT = 9
LONE_SECS = 0.05
RATE = 12_000.0


class Learning:
    """A table, and the learners of two routers that take turns."""

    def __init__(self) -> None:
        self.table = WorkerTable(mapped())
        self.routers = [SpeedLearner(self.table) for _ in range(2)]
        self._rng = random.Random(3)

    def answered(
        self, *, tokens: int, ahead: int, secs: float, router: int = 0, slot: int = SLOT, streamed: bool = False
    ) -> None:
        self.routers[router].answered(
            slot, work_tokens=tokens, ahead=ahead, ahead_secs=0.0, elapsed_secs=secs, streamed=streamed
        )

    def watch(
        self, takes: Callable[[int, int], float], *, answers: int = 300, most_ahead: int = 8, tokens: int = 100
    ) -> None:
        """Show answers of a worker that ``takes`` seconds for so many tokens after so many requests ahead."""
        for answer in range(answers):
            ahead, uncached = self._rng.randint(0, most_ahead), self._rng.randint(1, tokens)
            self.answered(router=answer % 2, tokens=uncached, ahead=ahead, secs=takes(uncached, ahead))

    def number(self, number: Outcome) -> float:
        return float(self.table.outcomes[SLOT, number])


@pytest.fixture
def learning() -> Learning:
    return Learning()


def test_without_a_queue_nothing_is_learned_of_seats_however_long_answers_take(learning: Learning) -> None:
    rng = random.Random(1)
    learning.watch(lambda _tokens, _ahead: LONE_SECS + rng.expovariate(0.2))
    assert learning.number(Outcome.SEAT_SECS) == 0


def test_the_one_seat_of_a_worker_becomes_free_with_every_answer(learning: Learning) -> None:
    learning.table.engines[SLOT, Engine.SEATS] = 1
    learning.watch(lambda _tokens, ahead: 0.1 * (ahead + 1))
    assert learning.number(Outcome.LONE_SECS) == pytest.approx(0.1)
    assert learning.number(Outcome.SEAT_SECS) == pytest.approx(0.1, rel=0.1)


def test_of_many_seats_one_becomes_free_so_much_more_often(learning: Learning) -> None:
    learning.table.engines[SLOT, Engine.SEATS] = 4
    learning.watch(lambda _tokens, ahead: 2.0 * max(ahead + 1, 4) / 4, most_ahead=16)
    assert learning.number(Outcome.SEAT_SECS) == pytest.approx(0.5, rel=0.1)


def test_the_prompts_before_it_are_no_part_of_a_seats_time(learning: Learning) -> None:
    learning.table.engines[SLOT, Engine.SEATS] = 1
    learning.table.engines[SLOT, Engine.PREFILL_RATE] = 1000
    learning.routers[0].answered(SLOT, work_tokens=1000, ahead=3, ahead_secs=2.0, elapsed_secs=3.4)
    assert learning.number(Outcome.SEAT_SECS) == pytest.approx(0.1)


def test_long_prompts_at_an_idle_worker_tell_how_fast_it_computes(learning: Learning) -> None:
    learning.watch(lambda tokens, _ahead: LONE_SECS + tokens / RATE, most_ahead=0, tokens=SHORT_PROMPT_TOKENS // 4)
    learning.watch(lambda tokens, _ahead: LONE_SECS + tokens / RATE, most_ahead=0, tokens=30 * LONG_PROMPT_TOKENS)
    assert learning.number(Outcome.PREFILL_RATE) == pytest.approx(RATE, rel=0.1)


def test_one_answer_by_chance_does_not_make_a_worker_fast(learning: Learning) -> None:
    """Rates are averaged as times: one answer that took no time at all is one of many."""
    learning.answered(tokens=100, ahead=0, secs=1.0)
    for _ in range(5):
        learning.answered(tokens=4000, ahead=0, secs=3.0)
    learning.answered(tokens=4000, ahead=0, secs=1.0 + 1e-9)
    assert learning.number(Outcome.PREFILL_RATE) == pytest.approx(2000 / 0.9, rel=0.01)


def test_the_time_of_a_streamed_answer_says_nothing_of_its_prompt(learning: Learning) -> None:
    learning.answered(tokens=100, ahead=0, secs=1.0, streamed=True)
    learning.answered(tokens=40_000, ahead=0, secs=30.0, streamed=True)
    assert learning.number(Outcome.LONE_SECS) == 1.0
    assert learning.number(Outcome.PREFILL_RATE) == 0


def test_a_worker_of_which_nothing_is_known_is_taken_for_those_that_the_router_has_seen(learning: Learning) -> None:
    learning.answered(slot=1, tokens=100, ahead=0, secs=0.2)
    learning.answered(slot=2, tokens=4000, ahead=0, secs=0.6)
    assert learning.routers[0].prefill_rate(SLOT) == pytest.approx(10_000)
    assert learning.routers[1].prefill_rate(SLOT) == FIRST_PREFILL_RATE
    learning.answered(tokens=4000, ahead=0, secs=0.4)
    assert learning.number(Outcome.PREFILL_RATE) == pytest.approx(20_000)


def test_the_time_to_the_first_byte_is_foretold_of_a_worker_that_was_watched(learning: Learning) -> None:
    def takes(tokens: int, ahead: int) -> float:
        return tokens / RATE + LONE_SECS * (ahead + 1)

    learning.table.engines[SLOT, Engine.SEATS] = 1
    for _ in range(10):
        learning.watch(takes, most_ahead=0, tokens=30)
        learning.watch(takes, most_ahead=0, tokens=30 * LONG_PROMPT_TOKENS)
        learning.watch(takes, most_ahead=16, tokens=4000)
    for tokens, ahead in ((10, 0), (4000, 0), (20_000, 0), (100, 10), (8000, 10)):
        foretold = learning.routers[0].first_byte_secs(SLOT, work_tokens=tokens, ahead=ahead)
        assert foretold == pytest.approx(takes(tokens, ahead), rel=0.15)


def test_a_rate_that_the_engine_tells_goes_before_the_learned_one(learning: Learning) -> None:
    learning.table.outcomes[SLOT, Outcome.PREFILL_RATE] = 1000.0
    assert learning.routers[0].first_byte_secs(SLOT, work_tokens=4000, ahead=0) == pytest.approx(4.0)
    learning.table.engines[SLOT, Engine.PREFILL_RATE] = 40_000.0
    assert learning.routers[0].first_byte_secs(SLOT, work_tokens=4000, ahead=0) == pytest.approx(0.1)


def test_a_reported_rate_is_one_of_work_by_what_a_token_is_on_the_mean(learning: Learning) -> None:
    """As many tokens as are remembered weigh half: 65,536 of three times the work, where 1 was taken before."""
    learning.table.engines[SLOT, Engine.PREFILL_RATE] = 40_000.0
    learning.routers[0].sent(SLOT, new_tokens=65_536, work_tokens=3 * 65_536)
    assert learning.number(Outcome.PREFILL_STRETCH) == pytest.approx(2.0)
    assert learning.routers[1].prefill_rate(SLOT) == pytest.approx(80_000)
    learning.routers[1].sent(SLOT, new_tokens=1, work_tokens=1)
    assert learning.number(Outcome.PREFILL_STRETCH) == pytest.approx(2.0, rel=1e-4), "one token weighs little"


def test_a_learned_rate_is_one_of_work_already(learning: Learning) -> None:
    learning.table.outcomes[SLOT, [Outcome.PREFILL_RATE, Outcome.PREFILL_STRETCH]] = 1000.0, 3.0
    assert learning.routers[0].prefill_rate(SLOT) == 1000


@given(st.lists(st.tuples(st.integers(0, 1 << 21), st.floats(1, 100)), max_size=20))
def test_the_stretch_stays_within_what_was_sent(sent: list[tuple[int, float]]) -> None:
    learning = Learning()
    for tokens, stretch in sent:
        learning.routers[0].sent(SLOT, new_tokens=tokens, work_tokens=tokens * stretch)
    most = max((stretch for tokens, stretch in sent if tokens), default=1.0)
    assert 0 <= learning.number(Outcome.PREFILL_STRETCH) <= most * 1.000001


def test_a_slow_start_is_forgotten(learning: Learning) -> None:
    learning.answered(tokens=10, ahead=0, secs=30.0)
    learning.watch(lambda _tokens, _ahead: LONE_SECS, most_ahead=0)
    assert learning.number(Outcome.LONE_SECS) == pytest.approx(LONE_SECS, rel=0.01)


def test_a_long_prompt_that_took_less_than_a_short_one_corrects_the_short_one(learning: Learning) -> None:
    learning.answered(tokens=10, ahead=0, secs=1.0)
    learning.answered(tokens=5000, ahead=0, secs=0.5)
    assert learning.number(Outcome.LONE_SECS) == pytest.approx(0.95)
    assert learning.number(Outcome.PREFILL_RATE) == 0


def test_a_middling_prompt_at_an_idle_worker_tells_nothing(learning: Learning) -> None:
    learning.answered(tokens=10, ahead=0, secs=0.1)
    before = learning.table.outcomes.copy()
    learning.answered(tokens=600, ahead=0, secs=0.2)
    assert np.array_equal(learning.table.outcomes, before)


def test_the_length_of_answers_is_a_running_average(learning: Learning) -> None:
    assert learning.routers[0].answer_secs(SLOT) == 0
    learning.routers[0].answer_ended(SLOT, secs=4.0)
    assert learning.routers[1].answer_secs(SLOT) == 4.0
    learning.routers[1].answer_ended(SLOT, secs=14.0)
    assert learning.routers[0].answer_secs(SLOT) == pytest.approx(5.0)


@pytest.mark.parametrize("secs", [-0.001, -1e9, MAX_SECS + 1, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("ahead", [0, 3])
def test_times_that_cannot_be_are_ignored(learning: Learning, secs: float, ahead: int) -> None:
    learning.watch(lambda _tokens, ahead: 0.1 * (ahead + 1))
    learning.routers[0].answer_ended(SLOT, secs=2.0)
    before = learning.table.outcomes.copy()
    for tokens in (1, 5000):
        learning.answered(tokens=tokens, ahead=ahead, secs=secs)
    learning.routers[0].answer_ended(SLOT, secs=secs)
    assert np.array_equal(learning.table.outcomes, before)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 1 << 21), st.integers(0, 5000), st.floats(allow_nan=True, allow_infinity=True)),
        max_size=30,
    )
    | st.lists(st.tuples(st.integers(0, 1 << 21), st.integers(0, 3), st.floats(0, MAX_SECS)), max_size=30)
)
def test_whatever_is_seen_all_numbers_stay_within_bounds(answers: list[tuple[int, int, float]]) -> None:
    learning = Learning()
    learning.table.engines[SLOT, Engine.SEATS] = 2
    for tokens, ahead, secs in answers:
        learning.answered(tokens=tokens, ahead=ahead, secs=secs)
        learning.routers[1].answer_ended(SLOT, secs=secs)
        for number, low, high in (
            (Outcome.SEAT_SECS, MIN_SEAT_SECS, MAX_SEAT_SECS),
            (Outcome.PREFILL_RATE, MIN_PREFILL_RATE, MAX_PREFILL_RATE),
            (Outcome.LONE_SECS, 0.0, MAX_SECS),
            (Outcome.ANSWER_SECS, 0.0, MAX_SECS),
        ):
            value = learning.number(number)
            assert value == 0 or low * 0.999 <= value <= high * 1.001
        assert 0 <= learning.routers[0].first_byte_secs(SLOT, work_tokens=tokens, ahead=ahead) < math.inf
    others = np.delete(learning.table.outcomes, SLOT, axis=0)
    assert not others.any()
