import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.simulated.hashing import block_hashes, root_hash

SIZE = 4
IDS = st.binary(max_size=200).map(lambda data: data[: len(data) // 4 * 4])


def hashes(ids: bytes, *, root: int = 0) -> tuple[int, ...]:
    return block_hashes(ids, block_size=SIZE, root=root)


@given(IDS, IDS)
def test_a_hash_stands_for_everything_up_to_the_end_of_its_block(one: bytes, other: bytes) -> None:
    found, again = hashes(one), hashes(other)

    assert len(found) == len(one) // (4 * SIZE)
    for place, (left, right) in enumerate(zip(found, again, strict=False), start=1):
        end = place * 4 * SIZE
        assert (left == right) == (one[:end] == other[:end])


@given(IDS, IDS)
def test_more_tokens_leave_the_hashes_of_a_prefix_as_they_are(ids: bytes, more: bytes) -> None:
    assert hashes(ids + more)[: len(hashes(ids))] == hashes(ids)


def test_another_adapter_or_salt_makes_other_blocks() -> None:
    pairs = [("", ""), ("a", ""), ("", "a"), ("a", "b"), ("ab", ""), ("b", "a")]
    found = {hashes(bytes(64), root=root_hash(lora=lora, cache_salt=salt)) for lora, salt in pairs}

    assert len(found) == len(pairs)


def test_equal_blocks_in_another_place_have_other_hashes() -> None:
    assert len(set(hashes(bytes(4 * SIZE * 10)))) == 10


@pytest.mark.parametrize("block_size", [1, 16, 128])
def test_hashes_are_64_bit_numbers(block_size: int) -> None:
    assert all(0 <= value < 1 << 64 for value in block_hashes(os.urandom(4096), block_size=block_size, root=1))
