"""Since when an engine has computed as much as its cache holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.fleet.load.engine_load import EngineLoad
from extproc.observer.turnover import STEPS, Turnover

ROOM = 16_000


def reading(computed: float | None, *, answers: float | None = None, num_gpu_blocks: int = 1000) -> EngineLoad:
    """Of an engine with room for 16,000 tokens; half of those of its ``answers`` are first ones."""
    half = None if answers is None else answers / 2
    return EngineLoad(
        running=0,
        block_size=16,
        num_gpu_blocks=num_gpu_blocks,
        computed_tokens=computed,
        first_tokens=half,
        decode_tokens=half,
    )


def test_the_moment_moves_with_the_counters() -> None:
    turnover = Turnover()
    told = [turnover.cached_since(reading(4000.0 * step), now=step) for step in range(1, 9)]
    assert told == [0, 0, 0, 0, 1, 2, 3, 4]


def test_tokens_of_answers_take_room_as_well() -> None:
    turnover = Turnover()
    told = [turnover.cached_since(reading(100.0, answers=8000.0 * step), now=step) for step in range(1, 5)]
    assert told == [0, 0, 1, 2]


def test_a_cache_that_never_fills_loses_nothing() -> None:
    turnover = Turnover()
    assert not any(turnover.cached_since(reading(min(100.0 * step, ROOM)), now=step) for step in range(1, 400))


def test_more_than_all_of_it_between_two_readings_has_gone_since_the_first_of_them() -> None:
    turnover = Turnover()
    turnover.cached_since(reading(0.0), now=1)
    turnover.cached_since(reading(10.0), now=2)
    assert turnover.cached_since(reading(100_000.0), now=3) == 2


def test_an_engine_that_has_idled_has_lost_what_it_had_before() -> None:
    """The moment is the end of the pause and not its beginning."""
    turnover = Turnover()
    for now in range(1, 1000):
        turnover.cached_since(reading(5000.0), now=now)
    assert turnover.cached_since(reading(5000.0 + ROOM), now=1000) == 999


@pytest.mark.parametrize(
    "told", [reading(None), reading(5e6, num_gpu_blocks=0)], ids=["no counter", "no size of its cache"]
)
def test_an_engine_that_does_not_tell_has_no_moment(told: EngineLoad) -> None:
    turnover = Turnover()
    assert [turnover.cached_since(told, now=now) for now in (1, 2, 3)] == [0, 0, 0]
    assert len(turnover) == 0


def test_an_engine_that_counts_anew_has_none_until_it_has_computed_that_much_again() -> None:
    turnover = Turnover()
    turnover.cached_since(reading(0.0), now=1)
    assert turnover.cached_since(reading(ROOM), now=2) == 1
    turnover.clear()
    assert turnover.cached_since(reading(0.0), now=3) == 0
    assert turnover.cached_since(reading(ROOM - 1.0), now=4) == 0
    assert turnover.cached_since(reading(ROOM), now=5) == 3


@given(st.lists(st.integers(0, 3 * ROOM // STEPS) | st.sampled_from((0, 0, 1, ROOM, 5 * ROOM)), max_size=300))
def test_few_readings_are_as_good_as_all_to_a_step(steps: list[int]) -> None:
    """Never later than all readings would tell, and no earlier than they would with a step less of room."""
    turnover, computed, everything = Turnover(), 0, [(0.0, 0)]
    for now, step in enumerate(steps, start=1):
        computed += step
        told = turnover.cached_since(reading(computed), now=now)
        known = everything[1:]
        exact = max((at for at, count in known if count <= computed - ROOM), default=0)
        coarse = max((at for at, count in known if count <= computed - ROOM - ROOM / STEPS), default=0)
        assert coarse <= told <= exact
        assert (told == 0) == (exact == 0)
        everything.append((now, computed))
        assert len(turnover) <= 2 * STEPS + 3


def test_a_long_time_takes_no_more_memory_than_a_short_one() -> None:
    turnover = Turnover()
    for now in range(20_000):
        turnover.cached_since(reading(0.5 * now), now=now)
        assert len(turnover) <= 2 * STEPS + 3
