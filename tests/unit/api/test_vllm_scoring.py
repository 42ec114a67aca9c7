"""``/score`` and ``/v1/rerank``."""

import pytest

from tests.support.readers import parse


@pytest.mark.parametrize("path", ["/score", "/v1/rerank"])
def test_pairs_of_texts_are_no_prompt_that_is_known(path: str) -> None:
    body = parse(path, model="m", query="q", documents=["a"])
    body.validate()
    assert body.prompt_parts() is None
    assert body.prompt_input() is None
