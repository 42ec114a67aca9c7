"""Hashes of many prompts at once: each prompt is hashed as if it were alone."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.simulation.loads.hashing import chain, mix

few_ids = st.lists(st.integers(0, 2) | st.integers(0, 2**64 - 1), min_size=1, max_size=8)


def chained(prompts: list[list[int]]) -> list[list[int]]:
    ids = np.array([one for prompt in prompts for one in prompt], dtype=np.uint64)
    ends = np.cumsum([len(prompt) for prompt in prompts])
    chain(ids, ends)
    return [part.tolist() for part in np.split(ids, ends[:-1])]


@settings(deadline=None)
@given(st.lists(few_ids, min_size=1, max_size=6))
def test_a_prompt_has_the_hashes_that_it_has_alone(prompts: list[list[int]]) -> None:
    assert chained(prompts) == [chained([prompt])[0] for prompt in prompts]


@settings(deadline=None)
@given(few_ids, few_ids)
def test_hashes_are_equal_as_far_as_the_prompts_are(one: list[int], other: list[int]) -> None:
    first, second = chained([one, other])
    for end in range(1, min(len(one), len(other)) + 1):
        assert (first[end - 1] == second[end - 1]) == (one[:end] == other[:end])


def test_equal_numbers_at_different_places_have_different_hashes() -> None:
    (hashes,) = chained([[7] * 10_000])
    assert len(set(hashes)) == 10_000


def test_mixing_loses_nothing_and_spreads_small_numbers_over_all_bits() -> None:
    values = np.arange(100_000, dtype=np.uint64)
    mix(values)
    assert len(np.unique(values)) == 100_000
    bits = np.unpackbits(values.view(np.uint8)).reshape(-1, 64).mean(axis=0)
    assert np.all(np.abs(bits - 0.5) < 0.02)
