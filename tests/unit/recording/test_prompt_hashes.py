"""One hash for each block of 512 tokens, whatever the engine's blocks are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.index.block_hash import Ids, block_hashes
from extproc.recording.prompt_hashes import prompt_hashes
from extproc.recording.record import MAX_INPUT_TOKENS
from extproc.tokens.prompt_tokens import PromptTokens
from tests.support.fleets import prompt

SIZES = (1, 8, 16, 32, 48, 100, 512, 768, 1024)


def hashes_of(*prompts: PromptTokens) -> tuple[list[int], bool]:
    raw, tail = prompt_hashes(prompts)
    return np.frombuffer(raw, np.uint64).tolist(), tail


def tokenized(ids: Ids, block_size: int) -> PromptTokens:
    return PromptTokens(ids, block_hashes(ids, block_size=block_size, before=1), block_size, 1, "miss")


@pytest.mark.parametrize("block_size", [1, 8, 16, 512])
def test_whole_blocks_have_the_hash_of_the_engines_block_that_ends_there(block_size: int) -> None:
    one = prompt(1600, block_size=block_size)
    hashes, tail = hashes_of(one)
    blocks = 512 // block_size
    assert tail
    assert hashes == [int(one.block_hashes[place]) for place in (blocks - 1, 2 * blocks - 1, 3 * blocks - 1, -1)]


@pytest.mark.parametrize("block_size", [16, 512])
def test_a_prompt_of_whole_blocks_has_no_tail(block_size: int) -> None:
    hashes, tail = hashes_of(prompt(1024, block_size=block_size))
    assert (len(hashes), tail) == (2, False)


def test_nothing_is_known_of_a_prompt_without_a_block_or_without_tokens() -> None:
    assert hashes_of() == ([], False)
    assert hashes_of(prompt(15)) == ([], False)


def test_of_several_prompts_the_first_is_known_and_what_is_left_over_is_not() -> None:
    hashes, tail = hashes_of(prompt(1100), prompt(40, seed=1))
    assert (hashes, tail) == (hashes_of(prompt(1100))[0][:2], False)


def test_no_more_are_kept_than_a_trace_has_tokens() -> None:
    tokens = np.zeros(MAX_INPUT_TOKENS + 5000, np.uint32)
    hashes, tail = hashes_of(tokenized(tokens, 512))
    assert (len(hashes), tail) == (MAX_INPUT_TOKENS // 512 + 1, True)


@given(
    block_size=st.sampled_from(SIZES),
    same=st.integers(0, 4000),
    rests=st.tuples(st.integers(1, 2500), st.integers(1, 2500)),
)
def test_equal_hashes_mean_equal_beginnings(block_size: int, same: int, rests: tuple[int, int]) -> None:
    rng = np.random.default_rng(same)
    lead = rng.integers(0, 1000, same, dtype=np.uint32)
    # The first token after what is the same differs.
    ids = [
        np.concatenate([lead, np.full(1, which, np.uint32), rng.integers(0, 1000, rest, dtype=np.uint32)])
        for which, rest in enumerate(rests)
    ]
    known = []
    for one in ids:
        hashes, tail = hashes_of(tokenized(one, block_size))
        whole = hashes[:-1] if tail else hashes
        assert len(whole) <= len(one) // 512
        assert len(set(whole)) == len(whole)
        known.append(whole)
    equal = [a == b for a, b in zip(*known, strict=False)]
    assert sum(equal) <= same // 512
    assert all(equal[: max(same - block_size, 0) // 512])
