"""Token ids as arrays."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.api.prompt_input import to_ids


@given(st.lists(st.integers(0, 2**32 - 1)))
def test_ids_keep_their_values(values: list[int]) -> None:
    ids = to_ids(values)
    assert ids.dtype == np.uint32
    assert ids.tolist() == values


@pytest.mark.parametrize("value", [-1, 2**32, 2**64, -(2**70)])
def test_what_is_no_id_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="token id"):
        to_ids([1, value])


@pytest.mark.parametrize("value", [1.0, "1", None])
def test_what_is_no_whole_number_is_no_id(value: Any) -> None:  # noqa: ANN401
    with pytest.raises(TypeError):
        to_ids([1, value])
