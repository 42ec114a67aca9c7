"""Block hashes: a hash names everything up to the end of its block, and nothing after it."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.index.block_hash import Ids, block_hashes, block_steps, block_sums, root_hash

ids_lists = st.lists(st.integers(0, 2**32 - 1), max_size=200)


def ids(values: list[int]) -> Ids:
    return np.array(values, dtype=np.uint32)


@given(ids_lists, st.integers(1, 40))
def test_there_is_one_hash_for_every_whole_block(values: list[int], block_size: int) -> None:
    assert len(block_hashes(ids(values), block_size=block_size, before=1)) == len(values) // block_size


@given(ids_lists, st.integers(1, 40), st.integers(0, 2**64 - 1), st.integers(0, 200))
def test_a_chain_can_be_continued_from_any_block(values: list[int], block_size: int, root: int, cut: int) -> None:
    whole = block_hashes(ids(values), block_size=block_size, before=root)
    known = min(cut, len(whole))
    before = int(whole[known - 1]) if known else root
    rest = block_hashes(ids(values[known * block_size :]), block_size=block_size, before=before, first_block=known)
    assert whole.tolist() == whole[:known].tolist() + rest.tolist()


@given(ids_lists, st.integers(1, 20), st.data())
def test_a_changed_token_changes_its_block_and_all_after_it(
    values: list[int], block_size: int, data: st.DataObject
) -> None:
    if len(values) < block_size:
        return
    at = data.draw(st.integers(0, len(values) // block_size * block_size - 1))
    changed = values.copy()
    changed[at] ^= 1 << data.draw(st.integers(0, 31))
    one, other = (block_hashes(ids(case), block_size=block_size, before=3) for case in (values, changed))
    assert (one == other).tolist() == [block < at // block_size for block in range(len(one))]


@given(st.lists(st.integers(0, 9), min_size=32, max_size=32, unique=False))
def test_swapped_blocks_do_not_look_alike(values: list[int]) -> None:
    if values[:16] == values[16:]:
        return
    one = block_hashes(ids(values), block_size=16, before=3)
    other = block_hashes(ids(values[16:] + values[:16]), block_size=16, before=3)
    assert one[-1] != other[-1]


def test_equal_blocks_at_different_places_have_different_hashes() -> None:
    hashes = block_hashes(np.zeros(16 * 1000, dtype=np.uint32), block_size=16, before=0)
    assert len(set(hashes.tolist())) == 1000


def test_hashes_are_spread_over_all_bits() -> None:
    numbers = np.arange(16 * 20_000, dtype=np.uint32)
    hashes = block_hashes(numbers, block_size=16, before=0)
    bits = np.unpackbits(hashes.view(np.uint8)).reshape(len(hashes), 64)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 0.02
    assert len(np.unique(hashes & np.uint64(0xFFFF_FFFF))) > 19_990


@pytest.mark.parametrize(
    "other",
    [
        root_hash(model="n"),
        root_hash(model="m", lora="a"),
        root_hash(model="m", cache_salt="a"),
        root_hash(model="m", media=[b"a"]),
        root_hash(model="ma"),
        root_hash(model="m", media=[b"a", b"b"]),
        root_hash(model="m", media=[b"ab"]),
    ],
)
def test_roots_differ_in_every_part(other: int) -> None:
    assert root_hash(model="m") != other
    assert root_hash(model="m") == root_hash(model="m", lora="", cache_salt="", media=())


def test_prompts_with_different_roots_share_no_block() -> None:
    numbers = np.arange(320, dtype=np.uint32)
    one, other = (block_hashes(numbers, block_size=16, before=root_hash(model=name)) for name in ("a", "b"))
    assert not set(one.tolist()) & set(other.tolist())


@given(ids_lists, st.integers(1, 40), st.integers(0, 2**64 - 1))
def test_sums_and_steps_of_blocks_make_the_same_chain(values: list[int], block_size: int, root: int) -> None:
    sums = block_sums(ids(values), block_size=block_size)
    steps = block_steps(sums, np.arange(len(sums), dtype=np.uint64))
    chain = [total % 2**64 for total in itertools.accumulate(steps.tolist(), initial=root)][1:]
    assert chain == block_hashes(ids(values), block_size=block_size, before=root).tolist()
