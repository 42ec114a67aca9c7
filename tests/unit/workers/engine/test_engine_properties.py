"""Properties that hold for any arrivals: bulk stretches are single steps, limits are kept, nothing is left behind."""

import collections
import random
from math import inf

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.engine_runs import Ask, Bench, Outcome, small_profile
from workers.engine.device import Device
from workers.engine.engine import Engine
from workers.engine.events import Cleared, Removed, Stored
from workers.engine.profile import Profile

PREFIXES = ((1, 2, 3, 4, 5, 6), (1, 2, 9, 9, 9, 9), (7,), ())


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    return small_profile(
        block_size=draw(st.sampled_from([1, 4, 5])),
        blocks=draw(st.integers(40, 120)),
        max_num_seqs=draw(st.integers(1, 6)),
        max_num_batched_tokens=draw(st.integers(6, 60)),
        max_loras=draw(st.integers(1, 2)),
        enable_prefix_caching=draw(st.booleans()),
    )


@st.composite
def scripts(draw: st.DrawFn) -> list[Ask]:
    # Times come from a seed: ones that hypothesis likes would fall on the ends of steps, where both answers are right.
    rng = random.Random(draw(st.integers(0, 1 << 32)))
    pace = draw(st.sampled_from([0.001, 0.02, 0.3]))
    count = draw(st.integers(1, 14))
    at, asks = 0.0, []
    for _ in range(count):
        at += rng.expovariate(1 / pace)
        asks.append(
            Ask(
                at=at,
                prompt_tokens=draw(st.integers(1, 25)),
                answer_tokens=draw(st.integers(0, 15)),
                prefix=draw(st.sampled_from(PREFIXES)),
                lora=draw(st.sampled_from(["", "", "a", "b", "c"])),
                abort_at=at + rng.expovariate(1 / (4 * pace)) if draw(st.integers(0, 3)) == 0 else inf,
            )
        )
    return asks


def times(outcomes: list[Outcome]) -> list[tuple[float, ...]]:
    return [
        (outcome.first_at, outcome.ended_at, outcome.request.scheduled_at, outcome.request.first_token_at)
        for outcome in outcomes
    ]


@settings(max_examples=300, deadline=None)
@given(profile=profiles(), asks=scripts(), seed=st.integers(0, 1 << 32), most_steps=st.sampled_from([4, 1 << 30]))
def test_a_stretch_of_steps_is_the_same_as_its_steps_one_by_one(
    profile: Profile, asks: list[Ask], seed: int, most_steps: int
) -> None:
    rng = random.Random(seed)
    looks = [rng.uniform(0, asks[-1].at + 0.5) for _ in range(20)]
    bulk = Bench(Engine(profile, device=Device(most_steps=most_steps)))
    single = Bench(Engine(profile, device=Device(most_steps=1)))

    expected, found = single.run(asks, looks=looks), bulk.run(asks, looks=looks)

    assert [row for outcome in found for row in outcome.produced] == [
        row for outcome in expected for row in outcome.produced
    ]
    for one, other in zip(times(found), times(expected), strict=True):
        assert one == pytest.approx(other, abs=1e-9)
    assert [(outcome.request.cached_tokens, outcome.request.preempted) for outcome in found] == [
        (outcome.request.cached_tokens, outcome.request.preempted) for outcome in expected
    ]
    assert msgspec.structs.asdict(bulk.engine.shown.counters) == pytest.approx(
        msgspec.structs.asdict(single.engine.shown.counters), abs=1e-9
    )


@settings(max_examples=300, deadline=None)
@given(profile=profiles(), asks=scripts())
def test_every_request_ends_and_nothing_is_left_behind(profile: Profile, asks: list[Ask]) -> None:
    bench = Bench(Engine(profile))
    outcomes = bench.run(asks)

    engine = bench.engine
    for ask, outcome in zip(asks, outcomes, strict=True):
        assert outcome.request.over
        assert outcome.ends == 1 or (outcome.ends == 0 and ask.abort_at < inf)
        if outcome.ends:
            assert outcome.request.produced == ask.answer_tokens
            assert ask.at <= outcome.request.scheduled_at < outcome.ended_at
            assert outcome.first_at == (outcome.request.first_token_at if ask.answer_tokens else -1)
    assert engine.due == inf
    assert (engine.unfinished, engine.generating, engine._context_tokens) == (0, 0, 0)
    assert engine._pool.free == engine._pool.size
    assert (engine.shown.running, engine.shown.waiting, engine.shown.kv_usage) == (0, 0, 0)
    counters, seen = engine.shown.counters, [one.request for one in outcomes if one.request.scheduled_at >= 0]
    assert counters.prefix_queries == sum(request.prompt_tokens for request in seen)
    assert counters.prefix_hits == sum(request.cached_tokens for request in seen)
    assert counters.preemptions == sum(request.preempted for request in seen)


@settings(max_examples=200, deadline=None)
@given(profile=profiles(), asks=scripts())
def test_limits_are_kept_in_every_step(profile: Profile, asks: list[Ask]) -> None:
    def check(engine: Engine) -> None:
        planned = sum(chunk for _, chunk in engine._chunks)
        assert planned + engine.generating <= profile.max_num_batched_tokens
        assert len(engine._running) <= profile.max_num_seqs
        assert len({request.lora for request in engine._running} - {""}) <= profile.max_loras
        assert len(engine._loras) <= profile.max_loras
        held = {block for request in engine._running for block in request.blocks}
        assert len(held) == engine._pool.size - engine._pool.free

    Bench(Engine(profile), after_step=check).run(asks)


@settings(max_examples=200, deadline=None)
@given(profile=profiles(), asks=scripts())
def test_counting_copies_by_the_events_gives_the_cache(profile: Profile, asks: list[Ask]) -> None:
    copies: collections.Counter[int] = collections.Counter()

    def follow(engine: Engine) -> None:
        events, engine.events = engine.events, []
        for event in events:
            if isinstance(event, Stored):
                copies.update(event.hashes)
            elif isinstance(event, Removed):
                copies[event.block_hash] -= 1
            else:
                assert isinstance(event, Cleared)
                copies.clear()
        assert min(copies.values(), default=0) >= 0
        assert +copies == collections.Counter(value for value in engine._pool._hashes if value is not None)

    bench = Bench(Engine(profile, keep_events=True), after_step=follow)
    bench.run(asks)
    bench.engine.clear_cache()
    follow(bench.engine)
    assert not +copies
