"""What an engine's events come to is what the engine holds, in our hashes."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.kvevents.engine_blocks import EngineBlocks, IncompatibleBlockSize
from extproc.kvevents.entries import NEAR
from extproc.kvevents.events import AllBlocksCleared, BlockStored
from tests.support.engine_events import LONGER, SETTINGS, SIZE, TOKENS, Told, make, ours, removed, root, stored


def near(blocks: EngineBlocks) -> set[int]:
    return set(blocks.take_changes().gained[NEAR].tolist())


def test_blocks_are_named_by_our_hashes() -> None:
    blocks = make()
    blocks.apply([stored(TOKENS)], now=0)
    blocks.apply([stored(LONGER, first=4)], now=1)
    assert near(blocks) == set(ours(LONGER))
    assert len(blocks) == 6


def test_what_follows_any_block_of_an_event_in_the_same_batch_is_placed() -> None:
    other = [*TOKENS[:8], 99, 98, 97, 96]
    blocks = make()
    blocks.apply([stored(TOKENS), stored(other, first=2), stored([*other, 1, 2, 3, 4], first=3)], now=0)
    assert near(blocks) == {*ours(TOKENS), *ours([*other, 1, 2, 3, 4])}


def test_a_block_is_lost_with_its_last_copy() -> None:
    blocks, event = make(), stored(TOKENS[:4])
    told = Told(blocks)
    blocks.apply([event, event], now=0)
    told.look()
    blocks.apply([removed(event, 0)], now=1)
    assert told.look()[NEAR] == set(ours(TOKENS[:4]))
    blocks.apply([removed(event, 0)], now=2)
    assert told.look()[NEAR] == set()
    blocks.apply([removed(event, 0), event], now=3)
    assert told.look()[NEAR] == set(ours(TOKENS[:4]))


def test_what_came_and_went_is_not_told() -> None:
    blocks, event = make(), stored(TOKENS)
    blocks.apply([event, removed(event, 0, 1, 2, 3)], now=0)
    changes = blocks.take_changes()
    assert not any(hashes.size for hashes in (*changes.gained, *changes.lost))
    blocks.apply([event], now=1)
    blocks.take_changes()
    blocks.apply([removed(event, 2), stored(TOKENS, first=2)], now=2)
    changes = blocks.take_changes()
    assert (changes.cleared, changes.gained[NEAR].size, changes.lost[NEAR].size) == (False, 0, 0)


def test_a_block_that_is_gone_is_still_known_as_a_parent() -> None:
    blocks, event = make(), stored(TOKENS)
    blocks.apply([event, removed(event, 0, 1, 2, 3), stored(LONGER, first=4)], now=0)
    assert near(blocks) == set(ours(LONGER)[4:])


def test_an_adapter_and_a_salt_set_prompts_apart() -> None:
    blocks = make()
    cases = [("", ""), ("ad1", ""), ("", "s"), ("ad1", "s"), ("s", "s")]
    blocks.apply([stored(TOKENS, lora=lora, salt=salt) for lora, salt in cases], now=0)
    assert near(blocks) == {own for lora, salt in cases for own in ours(TOKENS, lora=lora, salt=salt)}
    assert len(blocks) == 4 * len(cases)
    assert not blocks.unplaceable


def test_tagged_extra_keys_mean_the_same() -> None:
    keys = [[["lora", "ad1", "/path"], ["cache_salt", "s"]], *[[["lora", "ad1", "/path"]]] * 3]
    blocks = make()
    blocks.apply([stored(TOKENS, lora="ad1", salt="s", extra=keys)], now=0)
    assert near(blocks) == set(ours(TOKENS, lora="ad1", salt="s"))


@pytest.mark.parametrize(
    "keys", [[["image", 3]], [["mm", "image", 3]], ["unknown"], [b"digest"], [["prompt_embeds", b"x"]], 3, ["ad1"]]
)
def test_blocks_with_media_and_all_after_them_are_not_placed(keys: object) -> None:
    blocks = make()
    first = stored(TOKENS, extra=[None, keys, None, None])
    blocks.apply([first], now=0)
    blocks.apply([stored(LONGER, first=4)], now=0)
    assert near(blocks) == set(ours(TOKENS)[:1])
    assert (blocks.unplaceable, blocks.orphans_rejected) == (5, 0)
    blocks.apply([first, removed(first, 0, 1, 2, 3)], now=1)
    assert len(blocks) == 1


def test_tiers_are_told_apart() -> None:
    blocks, event = make(), stored(TOKENS)
    told = Told(blocks)
    copy = BlockStored(event.block_hashes[1:], None, [], 0, "CPU")
    blocks.apply([event, copy, copy], now=0)
    assert told.look() == (set(ours(TOKENS)), set(ours(TOKENS)[1:]))
    blocks.apply([removed(event, 0, 1, medium=None), removed(event, 2, medium="CPU")], now=1)
    assert told.look() == (set(ours(TOKENS)[2:]), set(ours(TOKENS)[1:]))
    assert len(blocks) == 3
    blocks.apply([removed(event, 2, 1, medium="CPU")], now=1)
    assert told.look() == (set(ours(TOKENS)[2:]), {ours(TOKENS)[1], ours(TOKENS)[3]})


def test_copies_of_blocks_that_nobody_named_are_rejected() -> None:
    blocks = make()
    blocks.apply([BlockStored([5], None, [], 0, "CPU")], now=0)
    assert (len(blocks), blocks.orphans_rejected) == (0, 1)


@pytest.mark.parametrize("factor", [2, 4])
def test_a_longer_block_of_the_engine_is_several_of_ours(factor: int) -> None:
    blocks = make()
    told = Told(blocks)
    other = [*LONGER[:4], *range(50, 70)]
    one, two = (stored(tokens, size=SIZE * factor) for tokens in (LONGER[:16], other[:16]))
    blocks.apply([one], now=0)
    assert told.look()[NEAR] == set(ours(LONGER[:16]))
    blocks.apply([two, stored([*LONGER[:16], *other[:16]], first=len(one.block_hashes), size=SIZE * factor)], now=0)
    everything = {*ours([*LONGER[:16], *other[:16]]), *ours(other[:16])}
    assert told.look()[NEAR] == everything
    blocks.apply([removed(one, 0)], now=0)
    # The other block begins alike.
    assert told.look()[NEAR] == everything - set(ours(LONGER[: SIZE * factor])[1:])


def test_blocks_that_do_not_fit_ours_are_complained_of_once() -> None:
    blocks = make()
    with pytest.raises(IncompatibleBlockSize) as caught:
        blocks.apply([stored(list(range(12)), size=6)], now=0)
    assert (caught.value.theirs, caught.value.ours) == (6, 4)
    blocks.apply([stored(list(range(12)), size=6), stored(TOKENS)], now=0)
    assert near(blocks) == set(ours(TOKENS))


def test_an_orphan_waits_for_its_parent() -> None:
    blocks = make()
    tail = stored(LONGER, first=5)
    blocks.apply([tail, stored([*LONGER, 1, 2, 3, 4], first=6), stored(LONGER[:20], first=4)], now=0)
    assert len(blocks) == 0
    blocks.apply([removed(tail, 0)], now=0.5)
    blocks.apply([stored(TOKENS)], now=1)
    wanted = ours([*LONGER, 1, 2, 3, 4])
    assert near(blocks) == {*wanted[:5], wanted[6]}
    assert blocks.orphans_rejected == 0


def test_an_orphan_is_rejected_in_the_end() -> None:
    blocks = make(dataclasses.replace(SETTINGS, orphan_secs=2))
    blocks.apply([stored(LONGER, first=5)], now=10)
    blocks.expire(12)
    assert blocks.orphans_rejected == 0
    blocks.expire(12.1)
    assert blocks.orphans_rejected == 1
    blocks.apply([stored(LONGER[:20])], now=13)
    assert near(blocks) == set(ours(LONGER[:20]))


def test_few_orphans_wait() -> None:
    blocks = make(dataclasses.replace(SETTINGS, max_orphans=2))
    prompts = [[*range(number, number + 8)] for number in range(3)]
    blocks.apply([stored(tokens, first=1) for tokens in prompts], now=0)
    assert blocks.orphans_rejected == 1
    blocks.apply([stored(tokens[:4]) for tokens in prompts], now=0)
    assert len(blocks) == 5


@given(st.permutations(range(6)))
def test_events_in_any_order_come_to_the_same(order: list[int]) -> None:
    blocks = make()
    events = [stored(LONGER[: 4 * at + 4], first=at) for at in range(6)]
    for at in order:
        blocks.apply([events[at]], now=0)
    assert near(blocks) == set(ours(LONGER))


def test_one_group_of_full_attention_counts() -> None:
    blocks = make()
    told = Told(blocks)
    blocks.apply([stored(LONGER, group=2, kind="full_attention"), stored([7] * 8, group=0, kind="mamba")], now=0)
    assert told.look()[NEAR] == set(ours(LONGER))
    event = stored(TOKENS, group=1, kind="mla_attention")
    # A placeholder of another group has no kind.
    blocks.apply([event, stored(LONGER, group=2), BlockStored([1], None, [], 0, "CPU", group=0)], now=0)
    assert told.look()[NEAR] == set(ours(TOKENS))
    blocks.apply([removed(event, 0, group=2), removed(event, 1, group=0), removed(event, 2, group=1)], now=0)
    assert told.look()[NEAR] == set(ours(TOKENS)) - {ours(TOKENS)[2]}


def test_clearing_forgets_everything() -> None:
    blocks = make()
    blocks.apply([stored(TOKENS), stored([*TOKENS, 9, 9, 9, 9, 8, 8, 8, 8], first=5)], now=0)
    blocks.take_changes()
    blocks.apply([stored([1] * 8), AllBlocksCleared(), stored([2] * 8), stored(LONGER, first=4)], now=1)
    changes = blocks.take_changes()
    assert (changes.cleared, set(changes.gained[NEAR].tolist()), changes.lost[NEAR].size) == (
        True,
        set(ours([2] * 8)),
        0,
    )
    assert blocks.take_changes().cleared is False
    blocks.clear()
    assert (len(blocks), blocks.take_changes().cleared) == (0, True)


def test_lifetimes_are_those_of_the_first_copy_in_the_gpu() -> None:
    blocks, event = make(), stored(TOKENS)
    blocks.apply([event], now=1)
    blocks.apply([event], now=2)
    blocks.apply([removed(event, 0, 1)], now=4)
    blocks.apply([removed(event, 1)], now=9)
    assert list(blocks.lifetimes) == [8]


def test_what_is_remembered_is_bounded_and_the_longest_gone_are_forgotten_first() -> None:
    blocks = make(dataclasses.replace(SETTINGS, max_blocks=4))
    prompts = [[number] * 4 for number in range(5)]
    events = [stored(tokens) for tokens in prompts]
    blocks.apply(events[:4], now=0)
    blocks.apply([removed(events[2], 0), removed(events[1], 0), stored(prompts[2]), removed(events[2], 0)], now=1)
    blocks.apply([events[4]], now=2)
    assert blocks.forgotten == 1
    blocks.apply([stored([*prompts[1], 1, 2, 3, 4], first=1)], now=3)
    assert len(blocks) == 3
    blocks.apply([stored([*prompts[2], 1, 2, 3, 4], first=1)], now=3)
    assert len(blocks) == 4
    blocks.apply([stored([7] * 4)], now=4)
    assert (len(blocks), blocks.forgotten) == (4, 3)


def test_blocks_of_a_lower_tier_give_way_to_those_of_the_gpu() -> None:
    blocks = make(dataclasses.replace(SETTINGS, max_blocks=4))
    told = Told(blocks)
    blocks.apply([stored(TOKENS, medium="STORAGE")], now=0)
    told.look()
    blocks.apply([stored([7] * 8)], now=1)
    assert told.look() == (set(ours([7] * 8)), set(ours(TOKENS)[2:]))


def test_nothing_is_restored_as_nothing() -> None:
    blocks = EngineBlocks.restore(make().dump(), root=root, block_size=SIZE, settings=SETTINGS)
    blocks.apply([stored(TOKENS)], now=0)
    assert near(blocks) == set(ours(TOKENS))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sizes", None),
        ("sizes", np.array([1, 1, 1, 9], np.uint32)),
        ("sizes", np.array([1, 1, 1, 1], np.int64)),
        ("depths", np.array([0, 0, 0, 0], np.uint32)),
        ("near", np.array([1], np.uint32)),
        ("near", np.array([1, 1, 1, 2**32 - 1], np.uint32)),
        ("own", np.zeros(3, np.uint64)),
        ("numbers", np.zeros(4, np.uint64)),
        ("numbers", np.zeros((2, 2), np.uint64)),
        ("digest_sizes", np.array([1, 0, 0, 0], np.uint8)),
        ("digests", np.zeros(3, np.uint8)),
        ("about", np.array([5, root("", ""), 0], np.uint64)),
        ("about", np.array([4, 7, 0], np.uint64)),
        ("about", np.zeros(0, np.uint64)),
    ],
)
def test_nonsense_is_not_restored(key: str, value: "np.ndarray[tuple[int], np.dtype[np.generic]] | None") -> None:
    blocks = make()
    blocks.apply([stored(TOKENS)], now=0)
    arrays = blocks.dump()
    EngineBlocks.restore(arrays, root=root, block_size=SIZE, settings=SETTINGS)
    if value is None:
        del arrays[key]
    else:
        arrays[key] = value
    with pytest.raises(ValueError, match=r"\w"):
        EngineBlocks.restore(arrays, root=root, block_size=SIZE, settings=SETTINGS)
