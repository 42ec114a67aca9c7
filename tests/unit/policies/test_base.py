"""What the policies share: how much of a prompt can be cached."""

import numpy as np
import pytest

from extproc.policies.base import cached_tokens, most_cached_tokens
from tests.support.fleets import prompt


@pytest.mark.parametrize(
    ("tokens", "block_size", "most"),
    [(0, 16, 0), (1, 16, 0), (16, 16, 0), (17, 16, 16), (32, 16, 16), (33, 16, 32), (300, 128, 256), (256, 128, 128)],
)
def test_the_last_token_is_always_computed_and_with_it_its_block(tokens: int, block_size: int, most: int) -> None:
    assert most_cached_tokens(prompt(tokens, block_size=block_size)) == most


def test_only_what_can_be_cached_counts_and_parts_of_blocks_stay() -> None:
    cached = cached_tokens(prompt(64), np.array([0.0, 1.6, 2.75, 3.2, 4.0]))
    assert cached.tolist() == [0.0, 25.6, 44.0, 48.0, 48.0]
