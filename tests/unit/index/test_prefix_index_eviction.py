"""What the index gives up when it is full."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.index.block_hash import Hashes
from extproc.index.depths import Ints
from extproc.index.prefix_index import STAMPS_PER_SEC, WAYS, PrefixIndex
from tests.support.fleets import Clock

HEADER_BYTES = 256
SET_BYTES = 288
WRAP_SECS = 2**32 / STAMPS_PER_SEC


class Small:
    """An index of few sets, its clock and its memory."""

    def __init__(self, *, sets: int = 1, now: float = 1000.0) -> None:
        self.clock = Clock(now)
        self.memory = memoryview(bytearray(HEADER_BYTES + sets * SET_BYTES))
        self.index = self.process()

    def process(self, *, ahead_secs: float = 0.0, half_life_secs: float = 0.0) -> PrefixIndex:
        """Return another process's access."""
        clock = self.clock
        return PrefixIndex(memory=self.memory, clock=lambda: clock.now + ahead_secs, half_life_secs=half_life_secs)

    def record(self, hashes: Hashes, slot: int = 0) -> None:
        self.index.record(hashes, slot)

    def held(self, hashes: Hashes, slot: int = 0) -> list[bool]:
        """Which of some blocks a worker is known to hold."""
        slots = np.array([slot])
        return [bool(self.index.match(hashes[at : at + 1], slots)[0]) for at in range(len(hashes))]


def blocks(count: int, *, seed: int = 0) -> Hashes:
    return np.random.default_rng(seed).integers(1 << 10, 1 << 64, count, dtype=np.uint64)


def test_blocks_of_one_prompt_that_share_a_set_are_all_kept() -> None:
    small = Small()
    hashes = blocks(WAYS)
    small.record(hashes)
    assert small.held(hashes) == [True] * WAYS


@pytest.mark.parametrize("known", range(WAYS + 1))
def test_a_prompt_displaces_others_and_not_itself_even_within_one_tick(known: int) -> None:
    small = Small()
    hashes = blocks(WAYS, seed=1)
    small.record(hashes[:known])
    small.record(blocks(WAYS - known, seed=2), 1)
    small.record(hashes)
    assert small.held(hashes) == [True] * WAYS


@settings(deadline=None)
@given(st.data())
def test_a_prompt_just_recorded_is_found_in_full(data: st.DataObject) -> None:
    """Whatever the table held, however many blocks meet in one set, as long as they fit in it."""
    small = Small(sets=data.draw(st.integers(1, 5)))
    pool = blocks(60)
    # The set of a block follows from the upper half of its hash.
    places = ((pool >> np.uint64(32)) * np.uint64((len(small.memory) - HEADER_BYTES) // SET_BYTES)) >> np.uint64(32)
    for _ in range(data.draw(st.integers(1, 12))):
        wanted = np.array(data.draw(st.lists(st.integers(0, 59), unique=True, max_size=30)), dtype=np.int64)
        prompt = pool[wanted]
        fits = [int((places[wanted[:at]] == places[wanted[at]]).sum()) < WAYS for at in range(len(wanted))]
        prompt = prompt[np.array(fits, dtype=np.bool_)]
        small.record(prompt, 3)
        assert small.held(prompt, 3) == [True] * len(prompt)
        small.clock.advance(data.draw(st.sampled_from((0.0, 0.01, 5.0))))


def test_more_blocks_than_a_set_holds_fill_it() -> None:
    small = Small()
    hashes = blocks(3 * WAYS)
    small.record(hashes)
    assert sum(small.held(hashes)) == WAYS


def test_what_was_recorded_longest_ago_goes_first() -> None:
    small = Small()
    hashes = blocks(WAYS)
    for at in range(WAYS):
        small.clock.advance(1.0)
        small.record(hashes[at : at + 1])
    small.clock.advance(1.0)
    small.record(hashes[:1])
    newcomers = blocks(3, seed=9)
    small.record(newcomers)
    assert small.held(hashes) == [True, False, False, False, True, True, True, True]
    assert small.held(newcomers) == [True] * 3


def test_what_nobody_holds_any_more_makes_room_first() -> None:
    small = Small()
    old, forgotten, cleared = blocks(4, seed=1), blocks(2, seed=2), blocks(2, seed=3)
    small.record(old)
    small.clock.advance(50.0)
    small.record(forgotten)
    small.record(cleared, 5)
    small.index.forget(forgotten, 0)
    small.index.clear_worker(5)
    assert small.index.state().blocks == 4
    newcomers = blocks(4, seed=4)
    small.record(newcomers)
    assert small.held(old) == [True] * 4
    assert small.held(newcomers) == [True] * 4


def test_never_holds_more_than_its_capacity() -> None:
    small = Small(sets=20)
    everything = blocks(5000)
    for start in range(0, 5000, 50):
        small.clock.advance(0.1)
        small.record(everything[start : start + 50], start % 64)
        assert small.index.state().blocks <= small.index.state().capacity_blocks == 160
    held = sum(sum(small.held(everything[start : start + 50], start % 64)) for start in range(0, 5000, 50))
    assert 150 < held <= 160


def test_prefers_to_keep_what_was_recorded_lately() -> None:
    small = Small(sets=200)
    prompts = [blocks(40, seed=seed) for seed in range(200)]
    for prompt in prompts:
        small.clock.advance(0.5)
        small.record(prompts[0])
        small.record(prompt)
    survivors = [sum(small.held(prompt)) for prompt in prompts]
    # There is room for 40 prompts of 40 blocks, if all sets were equally full.
    assert survivors[0] == 40
    assert sum(survivors[-10:]) == 400
    assert sum(survivors[-20:]) > 0.95 * 800
    assert sum(survivors[1:-80]) < 0.02 * 4760


def test_a_stamp_of_a_process_with_a_later_clock_is_not_taken_for_the_oldest() -> None:
    small = Small()
    ahead = small.process(ahead_secs=0.5)
    theirs, ours, newcomer = blocks(1, seed=1), blocks(WAYS - 1, seed=2), blocks(1, seed=3)
    small.record(ours)
    small.clock.advance(1.0)
    ahead.record(theirs, 0)
    small.record(newcomer)
    assert small.held(theirs) == [True]
    assert small.held(newcomer) == [True]


def test_order_goes_on_over_the_wrap_of_the_stamp() -> None:
    small = Small(now=WRAP_SECS - 4.0)
    hashes = blocks(WAYS)
    for at in range(WAYS):
        small.record(hashes[at : at + 1])
        small.clock.advance(1.0)
    small.record(blocks(4, seed=9))
    assert small.held(hashes) == [False] * 4 + [True] * 4


def test_free_entries_are_used_first_also_just_after_the_wrap() -> None:
    small = Small(now=WRAP_SECS - 4.0)
    before, after = blocks(4, seed=1), blocks(4, seed=2)
    small.record(before)
    small.clock.advance(4.01)
    small.record(after)
    assert small.held(before) == [True] * 4
    assert small.held(after) == [True] * 4


@pytest.mark.parametrize("now", [0.0, WRAP_SECS, 3 * WRAP_SECS - 0.5])
def test_the_clock_may_start_anywhere(now: float) -> None:
    small = Small(now=now)
    known = small.process(half_life_secs=1.0)
    hashes = blocks(WAYS)
    small.record(hashes)
    assert known.match(hashes, np.array([0])).tolist() == pytest.approx([8.0], rel=0.02)
    small.clock.advance(1.0)
    assert known.match(hashes, np.array([0])).tolist() == pytest.approx([4.0], rel=0.02)


@settings(deadline=None)
@given(st.lists(st.integers(0, 11), min_size=1, max_size=40))
def test_one_set_forgets_the_least_recently_recorded(recorded: list[int]) -> None:
    small = Small()
    pool = blocks(12)
    order: list[int] = []
    for block in recorded:
        small.record(pool[block : block + 1])
        small.clock.advance(1.0)
        order = [*(other for other in order if other != block), block][-WAYS:]
    assert small.held(pool) == [block in order for block in range(12)]


def test_what_a_match_has_found_is_not_trusted_once_it_was_displaced() -> None:
    """A choice records what it has matched; meanwhile another process may have given the entries to others."""
    memory, clock = memoryview(bytearray(HEADER_BYTES + SET_BYTES)), Clock()
    one, other = (PrefixIndex(memory=memory, clock=clock) for _ in range(2))
    mine, theirs = blocks(4), blocks(8, seed=9)
    one.record(mine, 1)
    one.match(mine, np.array([1]))
    clock.advance(10)
    other.record(theirs, 2)
    assert len(one.record(mine, 3)) == 4
    assert one.match(theirs, np.array([3])).tolist() == [0]
    assert one.match(mine, np.array([1, 3])).tolist() == [0, 4]


class _KilledError(Exception):
    pass


class _Stores:
    """An array of a process that is killed after so many stores to any of its arrays."""

    def __init__(self, numbers: Hashes, left: list[int]) -> None:
        self._numbers = numbers
        self._left = left

    def __getattr__(self, name: str) -> object:
        return getattr(self._numbers, name)

    def __getitem__(self, entries: Ints) -> Hashes:
        return self._numbers[entries]

    def __setitem__(self, entries: Ints, values: Hashes) -> None:
        if not self._left[0]:
            raise _KilledError
        self._left[0] -= 1
        self._numbers[entries] = values


@pytest.mark.parametrize("stores", range(8))
def test_a_writer_killed_between_two_stores_costs_hints_and_gives_none_that_is_wrong(stores: int) -> None:
    small = Small()
    old, new = blocks(WAYS, seed=1), blocks(1, seed=2)
    small.record(old)
    killed = small.process()
    left = [stores]
    for name in ("_keys", "_claimed", "_near", "_far", "_stamps"):
        setattr(killed, name, _Stores(getattr(killed, name), left))
    with pytest.raises(_KilledError):
        killed.record(new, 5)
    assert sum(small.held(old)) >= WAYS - 1
    others = np.array([slot for slot in range(64) if slot != 5])
    assert not small.index.match(new, others).any()
    assert not small.held(old, 5).count(True)
    small.clock.advance(1.0)
    small.record(new, 7)
    assert small.held(new, 7) == [True]
    assert sum(small.held(old)) >= WAYS - 1
