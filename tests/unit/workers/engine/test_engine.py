"""What one engine does with a few requests."""

from math import inf
from typing import Any

import pytest

from tests.support.engine_runs import Ask, Bench, small_profile
from workers.engine.engine import Engine
from workers.engine.events import Cleared, Removed, Stored
from workers.engine.profile import StepCosts

FLAT = StepCosts(base_secs=1.0, prefill_token_secs=0.01)
"""A step takes 1 s, or 10 ms a prompt token if that is more."""


def bench(*, keep_events: bool = False, **fields: Any) -> Bench:  # noqa: ANN401 - fields of a profile
    return Bench(Engine(small_profile(step=FLAT, **fields), keep_events=keep_events))


def test_a_lone_request_takes_its_prompt_and_a_step_a_token() -> None:
    (outcome,) = bench(max_num_batched_tokens=2000, blocks=200).run([Ask(at=5.0, prompt_tokens=200, answer_tokens=4)])

    assert (outcome.first_at, outcome.ended_at) == (7.0, 10.0)


def test_a_long_prompt_is_computed_in_chunks_of_the_budget() -> None:
    (outcome,) = bench(max_num_batched_tokens=100, blocks=200).run([Ask(at=0.0, prompt_tokens=450, answer_tokens=1)])

    assert outcome.first_at == outcome.ended_at == 5.0


def test_a_prompt_stalls_the_answers_of_others() -> None:
    asks = [Ask(at=0.0, prompt_tokens=1, answer_tokens=10), Ask(at=2.5, prompt_tokens=400, answer_tokens=1)]
    first, second = bench(max_num_batched_tokens=1000, blocks=200).run(asks)

    assert (second.request.scheduled_at, second.first_at) == (3.0, 7.0)
    assert first.ended_at == 13.0  # ten steps, of which one took 4 s


def test_a_prompt_beyond_the_seats_waits_for_one() -> None:
    asks = [Ask(at=0.0, prompt_tokens=1, answer_tokens=3), Ask(at=0.0, prompt_tokens=1, answer_tokens=1)]
    run = bench(max_num_seqs=1)
    first, second = run.run(asks)

    assert first.ended_at == 3.0
    assert (second.request.scheduled_at, second.first_at) == (3.0, 4.0)
    assert run.engine.shown.counters.queue_secs == 3.0


def test_all_but_the_last_token_of_a_known_prompt_is_a_hit() -> None:
    prefix = (1, 2, 3)
    asks = [Ask(at=at, prompt_tokens=12, answer_tokens=1, prefix=prefix) for at in (0.0, 10.0)]
    asks.append(Ask(at=20.0, prompt_tokens=13, answer_tokens=1, prefix=prefix))
    run = bench()
    outcomes = run.run(asks)

    assert [outcome.request.cached_tokens for outcome in outcomes] == [0, 8, 12]
    counters = run.engine.shown.counters
    assert (counters.prefix_queries, counters.prefix_hits) == (37, 20)
    assert (counters.prompt_tokens, counters.computed_tokens, counters.prefill_tokens) == (37, 17, 17)


def test_answers_are_cached_but_for_their_last_token() -> None:
    run = bench()
    (outcome,) = run.run([Ask(at=0.0, prompt_tokens=6, answer_tokens=7, prefix=(1, 2, 3))])

    assert run.engine.cached_tokens(outcome.request.hashes) == 12
    run = bench()
    (outcome,) = run.run([Ask(at=0.0, prompt_tokens=6, answer_tokens=6, prefix=(1, 2, 3))])
    assert run.engine.cached_tokens(outcome.request.hashes) == 8


def test_the_request_that_came_last_is_preempted_and_computed_again() -> None:
    asks = [Ask(at=0.0, prompt_tokens=8, answer_tokens=9), Ask(at=0.0, prompt_tokens=8, answer_tokens=5)]
    run = bench(blocks=5)
    first, second = run.run(asks)

    assert (first.request.preempted, second.request.preempted) == (0, 1)
    assert first.ended_at == 9.0
    assert second.first_at == 2.0
    assert second.ended_at > first.ended_at
    assert run.engine.shown.counters.preemptions == 1
    assert run.engine.shown.counters.generated_tokens == 14


def test_an_aborted_request_frees_its_seat_at_the_end_of_the_step() -> None:
    asks = [
        Ask(at=0.0, prompt_tokens=1, answer_tokens=50, abort_at=10.5),
        Ask(at=5.0, prompt_tokens=1, answer_tokens=1),
    ]
    run = bench(max_num_seqs=1)
    first, second = run.run(asks)

    assert (first.ends, first.request.over) == (0, True)
    assert second.request.scheduled_at == 11.0


def test_after_its_last_request_was_aborted_an_engine_shows_that_it_is_idle() -> None:
    run = bench()
    run.run([Ask(at=0.0, prompt_tokens=1, answer_tokens=50, abort_at=10.5)])

    assert (run.engine.shown.running, run.engine.shown.kv_usage, run.engine.due) == (0, 0, inf)


def test_a_request_that_waits_can_be_aborted() -> None:
    asks = [
        Ask(at=0.0, prompt_tokens=1, answer_tokens=5),
        Ask(at=0.5, prompt_tokens=1, answer_tokens=1, abort_at=2.5),
    ]
    run = bench(max_num_seqs=1)
    first, second = run.run(asks)

    assert (first.ended_at, second.ends) == (5.0, 0)
    run.engine.abort(first.request, 6.0)
    assert first.ends == 1


def test_what_is_shown_moves_when_a_step_ends() -> None:
    run = bench(max_num_seqs=1, blocks=10)
    for tail in range(2):
        run.add(Ask(at=0.0, prompt_tokens=8, answer_tokens=2), tail=tail)
    assert (run.engine.shown.running, run.engine.shown.waiting) == (0, 0)
    run.run_until(1.0)
    assert (run.engine.shown.running, run.engine.shown.waiting) == (1, 1)
    assert run.engine.shown.kv_usage == pytest.approx(0.2)


def test_an_adapter_without_a_slot_waits_and_others_pass_it() -> None:
    asks = [
        Ask(at=0.0, prompt_tokens=1, answer_tokens=3, lora="a"),
        Ask(at=0.5, prompt_tokens=1, answer_tokens=1, lora="b"),
        Ask(at=0.6, prompt_tokens=1, answer_tokens=1),
        Ask(at=0.7, prompt_tokens=1, answer_tokens=1, lora="a"),
    ]
    run = Bench(Engine(small_profile(step=FLAT, lora_load_secs=0.25)))
    run.add(asks[0], tail=0)
    assert run.engine.loras == (["a"], [])
    of_a, of_b, plain, again = Bench(Engine(small_profile(step=FLAT, lora_load_secs=0.25))).run(asks)

    assert of_a.first_at == 1.25
    assert plain.first_at == again.first_at == 2.25
    assert of_b.request.scheduled_at == of_a.ended_at == 3.25
    assert of_b.first_at == 4.5  # a step and the loading


def test_a_request_that_can_never_fit_is_refused() -> None:
    run = bench(blocks=5)
    with pytest.raises(ValueError, match="6 blocks does not fit in 5"):
        run.add(Ask(at=0.0, prompt_tokens=20, answer_tokens=1), tail=0)
    with pytest.raises(ValueError, match="at least one token"):
        run.add(Ask(at=0.0, prompt_tokens=0, answer_tokens=1), tail=0)


def test_the_backlog_is_how_long_a_prompt_waits_to_begin() -> None:
    run = bench(max_num_batched_tokens=100, blocks=400)
    assert run.engine.backlog_secs(0.0) == 0
    run.add(Ask(at=0.0, prompt_tokens=250, answer_tokens=1), tail=0)
    run.add(Ask(at=0.0, prompt_tokens=300, answer_tokens=1), tail=1)

    assert run.engine.backlog_secs(0.5) == pytest.approx(0.5 + 1.5 + 3.0)


def test_events_tell_of_blocks_with_their_parents_and_of_evictions() -> None:
    run = bench(keep_events=True, blocks=4, max_num_batched_tokens=8)
    (one,) = run.run([Ask(at=0.0, prompt_tokens=12, answer_tokens=1, prefix=(1, 2, 3))])
    stored = [event for event in run.engine.events if isinstance(event, Stored)]
    assert [(event.hashes, event.parent) for event in stored] == [
        (one.request.hashes[:2], None),
        (one.request.hashes[2:], one.request.hashes[1]),
    ]

    run.engine.events = []
    run.run([Ask(at=run.now, prompt_tokens=8, answer_tokens=1, prefix=(9, 9))])
    assert [event for event in run.engine.events if isinstance(event, Removed)] == [Removed(one.request.hashes[2])]


def test_a_cache_is_cleared_only_when_nobody_uses_it() -> None:
    run = bench(keep_events=True)
    outcome = run.add(Ask(at=0.0, prompt_tokens=8, answer_tokens=3, prefix=(1, 2)), tail=0)
    assert not run.engine.clear_cache()
    run.run_until(inf)
    assert run.engine.cached_tokens(outcome.request.hashes) == 8

    assert run.engine.clear_cache()
    assert run.engine.cached_tokens(outcome.request.hashes) == 0
    assert run.engine.events[-1] == Cleared()


def test_what_a_callback_adds_or_aborts_takes_part_in_the_next_step() -> None:
    run = bench()
    first = run.add(Ask(at=0.0, prompt_tokens=1, answer_tokens=1), tail=0)
    other = run.add(Ask(at=0.0, prompt_tokens=1, answer_tokens=9), tail=1)
    added = []

    def on_end(at: float) -> None:
        run.engine.abort(other.request, at)
        added.append(run.add(Ask(at=at, prompt_tokens=1, answer_tokens=1), tail=2))

    first.request.on_end = on_end
    run.run_until(inf)

    assert (other.ends, added[0].request.scheduled_at, added[0].ended_at) == (0, 1.0, 2.0)
