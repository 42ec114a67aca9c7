from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.fleet.load.engine_load import EngineLoad
from extproc.fleet.load.exposition import read_engine_load
from extproc.fleet.load.rates import DECODE_MEMORY_TOKENS, PREFILL_MEMORY_TOKENS, LearnedRates, Lesson
from tests.unit.fleet.load.stepping_engine import Prompt, SteppingEngine

GOLDEN = Path(__file__).parent / "golden"
ZERO = EngineLoad(
    running=0, prefix_queries=0.0, prefix_hits=0.0, computed_tokens=0.0, prefill_requests=0.0, prefill_secs=0.0,
    prefill_tokens=0.0, decode_tokens=0.0, decode_secs=0.0, queue_requests=0.0, first_tokens=0.0,
)  # fmt: skip


def after(load: EngineLoad, **more: float) -> EngineLoad:
    """The same engine with these counters raised."""
    return msgspec.structs.replace(load, **{name: getattr(load, name) + value for name, value in more.items()})


def taught(*loads: EngineLoad, interval: float = 1.0) -> tuple[LearnedRates, list[Lesson]]:
    rates = LearnedRates()
    return rates, [rates.learn(load, now=interval * index) for index, load in enumerate(loads)]


def test_nothing_is_known_before_anything_happened() -> None:
    rates, lessons = taught(ZERO, ZERO)
    assert lessons == ["first", "idle"]
    assert (rates.prefill_tokens_per_sec, rates.decode_step_secs) == (None, None)


def test_tokens_over_the_time_they_took() -> None:
    rates, lessons = taught(
        ZERO, after(ZERO, prefill_requests=2, prefill_tokens=8000, prefill_secs=0.4, decode_tokens=100, decode_secs=0.7)
    )
    assert lessons == ["first", "learned"]
    assert rates.prefill_tokens_per_sec == pytest.approx(20_000)
    assert rates.decode_step_secs == pytest.approx(0.007)


def test_prompts_that_shared_steps_are_measured_by_what_the_engine_did_in_all() -> None:
    """32 requests have 0.2 s each of the same 1 s, so their times add up to 6.4 s."""
    rates, _ = taught(
        ZERO, after(ZERO, prefill_requests=32, prefill_tokens=32_000, prefill_secs=6.4, computed_tokens=32_000)
    )
    assert rates.prefill_tokens_per_sec == pytest.approx(32_000 / 1.2)


def test_all_the_tokens_of_the_last_five_seconds_count() -> None:
    """Each reading has the tokens of one more second; requests end only in the last. The first second is forgotten."""
    loads = [after(ZERO, computed_tokens=computed) for computed in (0, 90_000, 100_000, 110_000, 120_000, 130_000)]
    loads.append(after(loads[-1], computed_tokens=10_000, prefill_requests=10, prefill_tokens=5000, prefill_secs=5))
    rates, _ = taught(*loads)
    assert rates.prefill_tokens_per_sec == pytest.approx(50_000 / 5.5)


def test_rare_readings_look_back_to_the_one_before() -> None:
    busy = after(ZERO, computed_tokens=900_000)
    later = after(busy, computed_tokens=90_000, prefill_requests=10, prefill_tokens=5000, prefill_secs=5)
    rates, _ = taught(ZERO, busy, later, interval=60.0)
    assert rates.prefill_tokens_per_sec == pytest.approx(90_000 / 60.5)


def test_prompts_with_next_to_nothing_to_compute_teach_nothing_of_the_prefill() -> None:
    rates, lessons = taught(ZERO, after(ZERO, prefill_requests=100, prefill_tokens=100 * 255, prefill_secs=0.6))
    assert lessons[-1] == "idle"
    assert rates.prefill_tokens_per_sec is None


def test_what_was_learned_before_has_half_the_weight_after_enough_tokens() -> None:
    first = after(
        ZERO, prefill_requests=1, prefill_tokens=1000, prefill_secs=0.1, decode_tokens=10, decode_secs=0.1
    )  # 10,000 tokens a second, 10 ms
    second = after(
        first, prefill_requests=1, prefill_tokens=PREFILL_MEMORY_TOKENS, prefill_secs=PREFILL_MEMORY_TOKENS / 5000,
        decode_tokens=DECODE_MEMORY_TOKENS, decode_secs=DECODE_MEMORY_TOKENS * 0.02,
    )  # fmt: skip
    rates, _ = taught(ZERO, first, second)
    assert rates.prefill_tokens_per_sec == pytest.approx(1 / ((1 / 10_000 + 1 / 5000) / 2))
    assert rates.decode_step_secs == pytest.approx(0.015)


def test_the_mean_does_not_depend_on_how_often_it_is_read() -> None:
    step = {"prefill_requests": 1, "prefill_tokens": 4096, "prefill_secs": 0.2, "decode_tokens": 64, "decode_secs": 1}
    start = after(ZERO, prefill_requests=1, prefill_tokens=4096, prefill_secs=1.0, decode_tokens=9, decode_secs=0.1)
    loads = [start]
    for _ in range(8):
        loads.append(after(loads[-1], **step))
    often, _ = taught(ZERO, *loads)
    seldom, _ = taught(ZERO, loads[0], loads[-1])
    assert often.prefill_tokens_per_sec == pytest.approx(seldom.prefill_tokens_per_sec)
    assert often.decode_step_secs == pytest.approx(seldom.decode_step_secs)


@pytest.mark.parametrize(
    "name",
    [
        "prefix_queries", "prefix_hits", "computed_tokens", "prefill_requests", "prefill_tokens", "decode_tokens",
        "queue_requests", "first_tokens",
    ],
)  # fmt: skip
def test_a_counter_that_falls_is_another_engine_and_the_rates_stay(name: str) -> None:
    busy = after(
        ZERO, prefix_queries=9, prefix_hits=9, computed_tokens=9, prefill_requests=1, prefill_tokens=8000,
        prefill_secs=0.4, decode_tokens=100, decode_secs=1, queue_requests=9, first_tokens=9,
    )  # fmt: skip
    fallen = after(after(busy, decode_tokens=1, decode_secs=0.5), **{name: -2})
    again = after(fallen, decode_tokens=1, decode_secs=0.01)
    rates, lessons = taught(ZERO, busy, fallen, again)
    assert lessons == ["first", "learned", "restarted", "learned"]
    assert rates.prefill_tokens_per_sec == pytest.approx(20_000)
    assert rates.decode_step_secs == pytest.approx(0.01)


def test_a_counter_that_comes_or_goes_is_no_restart() -> None:
    bare = EngineLoad(running=0)
    _, lessons = taught(bare, after(ZERO, prefix_queries=5, decode_tokens=5), bare)
    assert lessons == ["first", "idle", "idle"]


@pytest.mark.parametrize(
    "more",
    [
        {"prefill_requests": 1, "prefill_tokens": 8000, "prefill_secs": -1000.0},
        {"prefill_requests": 1, "prefill_tokens": 8000, "prefill_secs": 0.0},
        {"prefill_requests": 1, "prefill_tokens": 8000, "prefill_secs": 1e-9},
        {"prefill_requests": 1, "prefill_tokens": 8000, "prefill_secs": 1e6},
        {"decode_tokens": 10, "decode_secs": 601.0},
        {"decode_tokens": 10, "decode_secs": 0.0},
        {"decode_tokens": 10, "decode_secs": -5.0},
    ],
)
def test_what_cannot_be_true_is_left_out(more: dict[str, float]) -> None:
    rates, lessons = taught(ZERO, after(ZERO, **more))
    assert lessons[-1] == "implausible"
    assert (rates.prefill_tokens_per_sec, rates.decode_step_secs) == (None, None)


def test_learns_from_what_vllm_says() -> None:
    """12 prompts of 5,700 tokens at once; between the recordings, about 6 s apart, 46,222 tokens were computed.

    The times of the 12 add up to 11.7 s for 67,833 tokens, as several share steps, so what was done in all is more.
    """
    busy, later = (read_engine_load((GOLDEN / f"vllm_0_32_{name}.txt").read_bytes()) for name in ("busy", "after"))
    rates, lessons = taught(busy, later, interval=6.0)
    assert lessons == ["first", "learned"]
    assert rates.prefill_tokens_per_sec == pytest.approx(46_222 / (6 + 11.74 / 12), rel=1e-3)
    assert rates.decode_step_secs == pytest.approx((36.150 - 4.156) / (1281 - 102), rel=1e-3)


STEP_SECS = 6.4e-3
TOKEN_SECS = 21.4e-6
LOADS = {
    "lone long prompts": [Prompt(3.0 * i, 8192, 100) for i in range(20)],
    "lone short prompts": [Prompt(0.5 * i, 512, 50) for i in range(120)],
    "more long prompts than it can do": [Prompt(1.2 * i, 60_000, 300) for i in range(50)],
    "more prompts than it can do": [Prompt(0.04 * i, 2048, 20) for i in range(1500)],
    "more short prompts than it can do": [Prompt(0.01 * i, 512, 20) for i in range(6000)],
    "long and short ones": [
        *(Prompt(2.0 * i, 60_000, 100) for i in range(30)),
        *(Prompt(0.1 * i, 512, 20) for i in range(600)),
    ],
    "cached prompts and a few long ones": [
        *(Prompt(0.05 * i, 16, 50) for i in range(1200)),
        *(Prompt(5.0 * i + 0.4, 8192, 50) for i in range(12)),
    ],
}


@pytest.mark.parametrize("prompts", LOADS.values(), ids=LOADS.keys())
def test_finds_the_speed_of_an_engine_under_every_kind_of_load(prompts: list[Prompt]) -> None:
    """An engine that steps like vLLM on a GPU, read once a second: 46,700 tokens a second."""
    engine = SteppingEngine(prompts, step_secs=STEP_SECS, token_secs=TOKEN_SECS)
    rates = LearnedRates()
    for second in range(60):
        engine.run_until(second)
        rates.learn(engine.load(), now=second)
    assert rates.prefill_tokens_per_sec is not None
    assert rates.decode_step_secs is not None
    assert 0.4 < rates.prefill_tokens_per_sec * TOKEN_SECS < 1
    assert 0.99 * STEP_SECS < rates.decode_step_secs < 0.2


def test_bursts_of_short_prompts_are_taken_for_slowness_but_not_without_bound() -> None:
    """What cannot be seen from sums: 16 prompts that share 0.19 s of each second look like 16 times 0.19 s."""
    prompts = [Prompt(second + 0.4, 512, 50) for second in range(60) for _ in range(16)]
    engine = SteppingEngine(prompts, step_secs=STEP_SECS, token_secs=TOKEN_SECS)
    rates = LearnedRates()
    for second in range(60):
        engine.run_until(second)
        rates.learn(engine.load(), now=second)
    assert rates.prefill_tokens_per_sec is not None
    assert 0.15 < rates.prefill_tokens_per_sec * TOKEN_SECS < 1


COUNTS = st.none() | st.floats(0, 1e15)
LOAD = st.builds(
    EngineLoad,
    running=st.just(0),
    computed_tokens=COUNTS,
    prefill_requests=COUNTS,
    prefill_tokens=COUNTS,
    prefill_secs=st.none() | st.floats(-1e15, 1e15),
    decode_tokens=COUNTS,
    decode_secs=st.none() | st.floats(-1e15, 1e15),
)


@given(st.lists(st.tuples(LOAD, st.floats(0, 1e9)), max_size=8))
def test_whatever_is_read_the_rates_are_within_bounds(readings: list[tuple[EngineLoad, float]]) -> None:
    rates = LearnedRates()
    for load, now in readings:
        rates.learn(load, now=now)
    prefill, decode = rates.prefill_tokens_per_sec, rates.decode_step_secs
    assert prefill is None or 0.99 <= prefill <= 1.01e8
    assert decode is None or 0.99e-6 <= decode <= 60.01
