"""What the index takes from engines that say what they hold."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.index.block_hash import Hashes
from extproc.index.prefix_index import PrefixIndex, Tier
from tests.support.fleets import Clock

NEAR, FAR = Tier


def blocks(count: int, *, seed: int = 0) -> Hashes:
    return np.random.default_rng(seed).integers(1 << 10, 1 << 64, count, dtype=np.uint64)


class Shared:
    """An index of two processes: the observer's and a router's."""

    def __init__(self, *, weight: float = 1.0, half_lives: dict[int, float] | None = None) -> None:
        self.clock = Clock()
        memory = memoryview(bytearray(1 << 20))
        self.half_lives = np.zeros(1024)
        self.observer = PrefixIndex(memory=memory, clock=self.clock)
        self.router = PrefixIndex(memory=memory, clock=self.clock, lower_tier_weight=weight, half_lives=self.half_lives)

    def hold(self, hashes: Hashes, slot: int, tier: Tier = NEAR) -> None:
        self.observer.hold(hashes, np.full(len(hashes), slot), tier=tier)

    def release(self, hashes: Hashes, slot: int, tier: Tier = NEAR) -> None:
        self.observer.release(hashes, np.full(len(hashes), slot), tier=tier)

    def match(self, hashes: Hashes, slot: int) -> float:
        return float(self.router.match(hashes, np.array([slot]))[0])


@pytest.mark.parametrize("slot", [0, 5, 63, 64, 700, 1023])
def test_a_precise_worker_matches_up_to_the_first_block_that_is_missing(slot: int) -> None:
    shared, prompt = Shared(), blocks(10)
    shared.hold(prompt, slot)
    shared.release(prompt[4:5], slot)
    assert shared.match(prompt, slot) == 10
    shared.observer.set_precise(slot, precise=True)
    assert shared.match(prompt, slot) == 4
    assert shared.router.leading_blocks(prompt, slot) == 4
    assert shared.match(prompt[:4], slot) == 4
    shared.hold(prompt[4:5], slot)
    assert shared.match(prompt, slot) == shared.router.leading_blocks(prompt, slot) == 10
    shared.release(prompt[:1], slot)
    assert shared.match(prompt, slot) == shared.router.leading_blocks(prompt, slot) == 0
    shared.observer.set_precise(slot, precise=False)
    assert shared.match(prompt, slot) == 10


def test_precise_and_other_workers_are_told_apart_in_one_match() -> None:
    shared, prompt = Shared(), blocks(10)
    for slot in range(4):
        shared.hold(prompt[:3], slot)
        shared.hold(prompt[6:8], slot)
    shared.observer.set_precise(1, precise=True)
    shared.observer.set_precise(3, precise=True)
    assert shared.router.match(prompt, np.arange(4)).tolist() == [8, 3, 8, 3]
    assert [shared.router.is_precise(slot) for slot in range(4)] == [False, True, False, True]


def test_what_was_sent_counts_as_there_until_it_is_taken_back() -> None:
    shared, prompt = Shared(), blocks(10)
    shared.observer.set_precise(2, precise=True)
    shared.hold(prompt[:4], 2)
    news = shared.router.record(prompt, 2)
    assert news.tolist() == prompt[4:].tolist()
    assert shared.match(prompt, 2) == 10
    shared.hold(prompt[4:6], 2)
    shared.router.forget(news, 2)
    assert shared.match(prompt, 2) == 6


def test_an_event_that_confirms_takes_the_place_of_what_was_sent() -> None:
    shared, prompt = Shared(), blocks(5)
    shared.observer.set_precise(2, precise=True)
    shared.router.record(prompt, 2)
    shared.router.record(prompt, 3)
    shared.hold(prompt, 2)
    shared.release(prompt, 2)
    assert shared.match(prompt, 2) == 0
    assert shared.match(prompt, 3) == 5


def test_what_an_engine_holds_stays_when_what_was_sent_is_forgotten() -> None:
    shared, prompt = Shared(), blocks(5)
    shared.hold(prompt, 2)
    shared.router.record(prompt, 4)
    shared.router.forget(prompt, 2)
    shared.observer.clear_claims(2)
    assert shared.match(prompt, 2) == 5
    shared.observer.clear_held(4)
    assert shared.match(prompt, 4) == 5
    shared.observer.clear_held(2)
    assert shared.match(prompt, 2) == 0
    shared.observer.clear_worker(4)
    assert shared.observer.state().blocks == 0


def test_what_engines_hold_outlives_their_turnover_and_any_half_life() -> None:
    clock, since = Clock(1000.0), np.zeros(1024)
    index = PrefixIndex(memory=memoryview(bytearray(1 << 20)), clock=clock, cached_since=since, half_life_secs=1.0)
    prompt = blocks(8)
    index.hold(prompt, np.full(8, 1), tier=NEAR)
    index.record(prompt, 2)
    clock.advance(10.0)
    assert index.match(prompt, np.array([1, 2])).tolist() == [8, pytest.approx(8 / 1024, rel=0.1)]
    since[:4] = 1005.0
    assert index.match(prompt, np.array([1, 2])).tolist() == [8, 0]


def test_workers_have_half_lives_of_their_own() -> None:
    shared, prompt = Shared(), blocks(8)
    shared.half_lives[3] = 5.0
    for slot in (2, 3):
        shared.router.record(prompt, slot)
    shared.clock.advance(5.0)
    assert shared.match(prompt, 2) == 8
    assert shared.match(prompt, 3) == pytest.approx(4)


@pytest.mark.parametrize("precise", [False, True])
def test_a_block_in_a_lower_tier_is_worth_less(precise: bool) -> None:
    shared, prompt = Shared(weight=0.75), blocks(12)
    shared.observer.set_precise(1, precise=precise)
    shared.hold(prompt[:8], 1)
    shared.hold(prompt[4:], 1, FAR)
    assert shared.match(prompt, 1) == 8 + 0.75 * 4
    assert shared.router.leading_blocks(prompt, 1) == 12
    shared.release(prompt[:8], 1)
    assert shared.match(prompt, 1) == (0 if precise else 0.75 * 12)


def test_one_call_may_name_a_block_for_many_workers_and_more_than_once() -> None:
    shared, prompt = Shared(), blocks(6)
    slots = np.array([0, 1, 1, 63, 64, 999])
    shared.observer.hold(np.tile(prompt, len(slots)), np.repeat(slots, len(prompt)), tier=NEAR)
    assert shared.router.match(prompt, slots).tolist() == [6] * len(slots)
    assert shared.observer.state().blocks == 6 * 3
    shared.observer.release(np.tile(prompt[3:], 3), np.repeat([0, 1, 999], 3), tier=NEAR)
    assert shared.router.match(prompt, slots).tolist() == [3, 3, 3, 6, 6, 3]


POOL = blocks(40, seed=9)
SLOTS = (0, 1, 63, 64, 70, 1000)
WORDS = st.sampled_from(["hold", "release", "record", "forget", "clear_held", "clear_claims", "clear_worker"])
STEPS = st.lists(
    st.tuples(
        WORDS,
        st.lists(st.tuples(st.integers(0, len(POOL) - 1), st.sampled_from(SLOTS)), min_size=1, max_size=12),
        st.sampled_from(list(Tier)),
    ),
    max_size=30,
)


@settings(deadline=None)
@given(STEPS)
def test_the_index_says_what_it_was_told(  # noqa: C901 - one branch a word
    steps: list[tuple[str, list[tuple[int, int]], Tier]],
) -> None:
    shared = Shared()
    held: dict[tuple[Tier, int], set[int]] = defaultdict(set)
    claimed: dict[int, set[int]] = defaultdict(set)
    for word, pairs, tier in steps:
        slot = pairs[0][1]
        numbers = list(dict.fromkeys(number for number, _ in pairs))
        if word in {"hold", "release"}:
            hashes, slots = POOL[[number for number, _ in pairs]], np.array([at for _, at in pairs])
            getattr(shared.observer, word)(hashes, slots, tier=tier)
            for number, at in pairs:
                if word == "hold":
                    held[tier, at].add(number)
                    claimed[at].discard(number)
                else:
                    held[tier, at].discard(number)
        elif word == "record":
            known = held[NEAR, slot] | held[FAR, slot] | claimed[slot]
            news = [number for number in numbers if number not in known]
            assert shared.router.record(POOL[numbers], slot).tolist() == POOL[news].tolist()
            claimed[slot].update(news)
        elif word == "forget":
            shared.router.forget(POOL[numbers], slot)
            claimed[slot].difference_update(numbers)
        else:
            getattr(shared.observer, word)(slot)
            if word != "clear_held":
                claimed[slot].clear()
            if word != "clear_claims":
                held[NEAR, slot].clear()
                held[FAR, slot].clear()
    used = set()
    for slot in SLOTS:
        for tier in Tier:
            there = np.flatnonzero(shared.router.holds(POOL, slot, tier=tier)).tolist()
            assert there == sorted(held[tier, slot])
        anywhere = held[NEAR, slot] | held[FAR, slot] | claimed[slot]
        used |= {(number, slot >> 6) for number in anywhere}
        single = [shared.match(POOL[number : number + 1], slot) for number in range(len(POOL))]
        assert [number for number, depth in enumerate(single) if depth] == sorted(anywhere)
        shared.observer.set_precise(slot, precise=True)
        leading = next((number for number in range(len(POOL)) if number not in anywhere), len(POOL))
        assert shared.match(POOL, slot) == shared.router.leading_blocks(POOL, slot) == leading
    assert shared.observer.state().blocks == len(used)


def test_what_was_sent_can_be_taken_to_another_index_with_its_age() -> None:
    before, prompt = Shared(), blocks(300)
    before.router.record(prompt[:200], 70)
    before.clock.advance(10.0)
    before.router.record(prompt[200:], 70)
    before.router.record(prompt, 71)
    before.clock.advance(5.0)
    hashes, ages = before.router.claims(70)
    assert len(hashes) == 300
    assert sorted(set(np.round(ages))) == [5]
    after = Shared(half_lives={130: 5.0})
    after.half_lives[130] = 5.0
    after.router.record(prompt[:100], 131)
    after.router.claim(hashes, 130, ages=np.where(np.isin(hashes, prompt & ~np.uint64(15)), ages, -1.0))
    assert after.match(prompt[:100], 130) == 100
    assert after.match(prompt, 130) == pytest.approx(150, rel=0.02)
    assert after.match(prompt, 131) == 100
