"""What the index says of who holds what, with room for everything."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.index.block_hash import Hashes, block_hashes
from extproc.index.prefix_index import MAX_BLOCKS, IndexState, PrefixIndex
from tests.support.fleets import Clock

SLOTS = np.array([0, 1, 62, 63, 64, 65, 127, 130, 700, 1023])
EVERYONE = np.arange(1024)


def index(size: int = 1 << 20, *, half_life_secs: float = 0.0) -> PrefixIndex:
    return PrefixIndex(memory=memoryview(bytearray(size)), clock=Clock(), half_life_secs=half_life_secs)


def prompt(*tokens: int) -> Hashes:
    """The hashes of a prompt whose blocks have one token each."""
    return block_hashes(np.array(tokens, dtype=np.uint32), block_size=1, before=77)


def random_prompt(blocks: int, *, seed: int = 0) -> Hashes:
    ids = np.random.default_rng(seed).integers(0, 1 << 17, blocks, dtype=np.uint32)
    return block_hashes(ids, block_size=1, before=77)


def depths(of: PrefixIndex, hashes: Hashes, *slots: int) -> list[float]:
    found: list[float] = of.match(hashes, np.array(slots, dtype=np.int64)).tolist()
    return found


PROMPTS = st.lists(st.integers(0, 2), max_size=12).map(tuple)
SLOT = st.sampled_from(SLOTS.tolist())
OPERATIONS = st.lists(
    st.tuples(st.sampled_from(("record", "forget", "clear")), st.integers(0, 1), SLOT, PROMPTS, st.integers(0, 12)),
    max_size=40,
)


@settings(deadline=None)
@given(OPERATIONS, PROMPTS)
def test_knows_the_deepest_block_of_every_worker(
    operations: list[tuple[str, int, int, tuple[int, ...], int]], asked: tuple[int, ...]
) -> None:
    """Any operations, in any order, by two processes, against a set of prefixes for each worker."""
    memory = memoryview(bytearray(1 << 20))
    clock = Clock()
    processes = [PrefixIndex(memory=memory, clock=clock) for _ in range(2)]
    model: dict[int, set[tuple[int, ...]]] = {slot: set() for slot in SLOTS.tolist()}
    for action, process, slot, tokens, cut in operations:
        prefixes = [tokens[: end + 1] for end in range(len(tokens))]
        if action == "record":
            news = processes[process].record(prompt(*tokens), slot)
            new = [held not in model[slot] for held in prefixes]
            assert news.tolist() == prompt(*tokens)[np.array(new, dtype=np.bool_)].tolist()
            model[slot] |= set(prefixes)
        elif action == "forget":
            processes[process].forget(prompt(*tokens)[cut:], slot)
            model[slot] -= set(prefixes[cut:])
        else:
            processes[process].clear_worker(slot)
            model[slot] = set()
        clock.advance(0.003)
    expected = [
        max((end for end in range(len(asked) + 1) if asked[:end] in model[slot]), default=0) for slot in SLOTS.tolist()
    ]
    assert [process.match(prompt(*asked), SLOTS).tolist() for process in processes] == [expected] * 2
    held = {(slot >> 6, block) for slot, blocks in model.items() for block in blocks}
    assert processes[0].state().blocks == len(held)


def test_a_match_is_the_deepest_block_held_whatever_lies_before_it() -> None:
    known = index()
    hashes = random_prompt(40)
    known.record(hashes, 3)
    known.record(hashes[:25], 4)
    known.forget(hashes[5:20], 4)
    known.forget(hashes[30:], 3)
    assert depths(known, hashes, 3, 4, 5) == [30, 25, 0]


def test_workers_of_all_groups_are_told_apart() -> None:
    known = index(4 << 20)
    hashes = random_prompt(30)
    for slot in range(0, 1024, 31):
        known.record(hashes[: slot % 30 + 1], slot)
    matched = known.match(hashes, EVERYONE)
    assert matched.tolist() == [slot % 30 + 1 if slot % 31 == 0 else 0 for slot in range(1024)]


def test_answers_in_the_order_in_which_it_is_asked() -> None:
    known = index()
    hashes = random_prompt(9)
    for slot in (700, 2, 65):
        known.record(hashes[: slot % 9 + 1], slot)
    assert depths(known, hashes, 65, 9, 700, 2, 700) == [65 % 9 + 1, 0, 700 % 9 + 1, 3, 700 % 9 + 1]


def test_many_short_runs_of_different_workers_are_all_seen() -> None:
    known = index()
    hashes = random_prompt(5000)
    held = np.random.default_rng(3).integers(0, 64, 5000)
    for slot in range(64):
        known.record(hashes[held == slot], slot)
    last = [int(np.flatnonzero(held == slot)[-1]) + 1 for slot in range(64)]
    assert known.match(hashes, np.arange(64)).tolist() == last


def test_news_are_what_the_worker_did_not_hold() -> None:
    known = index()
    hashes = random_prompt(20)
    assert known.record(hashes[:12], 3).tolist() == hashes[:12].tolist()
    assert known.record(hashes[:12], 3).tolist() == []
    assert known.record(hashes, 3).tolist() == hashes[12:].tolist()
    assert known.record(hashes, 4).tolist() == hashes.tolist()


def test_taking_the_news_back_leaves_what_was_known() -> None:
    known = index()
    hashes = random_prompt(20)
    known.record(hashes[:12], 3)
    known.forget(known.record(hashes, 3), 3)
    assert depths(known, hashes, 3) == [12]


def test_clearing_a_worker_leaves_all_others() -> None:
    known = index()
    hashes = random_prompt(50)
    for slot in SLOTS.tolist():
        known.record(hashes, slot)
    known.clear_worker(64)
    assert known.match(hashes, SLOTS).tolist() == [0 if slot == 64 else 50 for slot in SLOTS.tolist()]


def test_an_empty_prompt_and_no_workers_are_no_fault() -> None:
    known = index()
    none = random_prompt(0)
    assert len(known.record(none, 3)) == 0
    known.forget(none, 3)
    assert depths(known, none, 3, 70) == [0, 0]
    assert depths(known, random_prompt(3)) == []


def test_a_prompt_past_the_limit_matches_by_its_first_blocks() -> None:
    known = index(8 << 20)
    hashes = random_prompt(MAX_BLOCKS + 50)
    assert len(known.record(hashes, 3)) == MAX_BLOCKS
    assert depths(known, hashes, 3) == [MAX_BLOCKS]


def test_all_memory_is_used_and_filled_evenly() -> None:
    size = 3 << 18
    known = index(size)
    capacity = (size - 256) // 288 * 8
    assert known.state() == IndexState(capacity_blocks=capacity, blocks=0)
    for seed in range(20):
        known.record(random_prompt(capacity // 10, seed=seed), seed)
    assert known.state().blocks > 0.97 * capacity


def test_memory_for_less_than_a_set_is_refused() -> None:
    with pytest.raises(ValueError, match="543 bytes"):
        index(256 + 287)


def test_a_block_that_two_processes_gave_an_entry_each_counts_for_both() -> None:
    memory = memoryview(bytearray(256 + 288))
    one = PrefixIndex(memory=memory, clock=Clock())
    hashes = random_prompt(1)
    one.record(hashes, 3)
    # What the other did at the same moment: its own entry for the same key.
    one._keys[5] = one._keys[0]
    one._claimed[5] = 1 << 9
    one._stamps[5] = one._stamps[0]
    assert depths(one, hashes, 3, 9, 5) == [1, 1, 0]
    assert len(one.record(hashes, 5)) == 1
    one.forget(hashes, 9)
    assert depths(one, hashes, 3, 9, 5) == [1, 0, 1]


def test_a_prompt_is_not_mistaken_for_one_that_differs_early() -> None:
    known = index()
    known.record(prompt(1, 2, 3, 4), 3)
    assert depths(known, prompt(1, 9, 3, 4), 3) == [1]


def test_counts_half_after_each_half_life_and_fully_when_recorded_again() -> None:
    clock = Clock()
    memory = memoryview(bytearray(1 << 20))
    known = PrefixIndex(memory=memory, clock=clock, half_life_secs=60.0)
    hashes = random_prompt(100)
    known.record(hashes, 3)
    known.record(hashes[:40], 70)
    assert depths(known, hashes, 3, 70, 4) == [100, 40, 0]
    clock.advance(60.0)
    assert depths(known, hashes, 3, 70, 4) == pytest.approx([50, 20, 0])
    clock.advance(60.0)
    known.record(hashes, 3)
    assert depths(known, hashes, 3, 70) == pytest.approx([100, 10])
    assert depths(PrefixIndex(memory=memory, clock=clock), hashes, 3, 70) == [100, 40]


def test_what_a_process_with_a_later_clock_recorded_is_no_older_than_now() -> None:
    memory = memoryview(bytearray(1 << 20))
    clock = Clock()
    later = PrefixIndex(memory=memory, clock=Clock(clock.now + 0.5))
    later.record(random_prompt(10), 3)
    assert depths(PrefixIndex(memory=memory, clock=clock, half_life_secs=1.0), random_prompt(10), 3) == [10]
