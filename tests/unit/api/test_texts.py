"""Texts, token ids and lists of either."""

import json
from typing import Any

import msgspec
import pytest

from extproc.api.prompt_input import TextInput, TokenInput
from extproc.api.texts import check_texts, decode_texts, texts_parts
from extproc.errors import InvalidRequest


def decoded(value: Any, indent: int | None = None) -> Any:  # noqa: ANN401
    raw = msgspec.Raw(json.dumps(value, indent=indent).encode())
    check_texts(raw, "prompt")
    return decode_texts(raw, "prompt", add_special_tokens=True)


@pytest.mark.parametrize(
    ("value", "texts"), [("a", ("a",)), ("", ("",)), (["a", "b"], ("a", "b")), (["[1]"], ("[1]",)), ([], ())]
)
def test_texts(value: Any, texts: tuple[str, ...]) -> None:  # noqa: ANN401
    assert decoded(value) == TextInput(texts, add_special_tokens=True)


@pytest.mark.parametrize("indent", [None, 100], ids=["compact", "indented"])
@pytest.mark.parametrize(
    ("value", "ids"),
    [([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]]), ([[]], [[]]), ([[], [1]], [[], [1]]), ([[1], []], [[1], []])],
)
def test_ids(value: Any, ids: list[list[int]], indent: int | None) -> None:  # noqa: ANN401
    prompt = decoded(value, indent)
    assert isinstance(prompt, TokenInput)
    assert [prompt.tolist() for prompt in prompt.prompts] == ids


def test_null_is_no_prompt() -> None:
    assert decoded(None) is None


@pytest.mark.parametrize(
    "value",
    [
        5, {}, True, [1.5], [1.0], [True], [[True]], [-1], [2**32], [2**70], [[0, -1]], ["a", 1], [1, "a"], ["a", [1]],
        [[1], "a"], [1, [1]], [[1], 1], [None], [[[1]]], [[], -1], [{"role": "user"}],
    ],
    ids=json.dumps,
)  # fmt: skip
def test_what_is_no_prompt_is_refused(value: Any) -> None:  # noqa: ANN401
    with pytest.raises(InvalidRequest) as refused:
        decoded(value)
    assert refused.value.param == "prompt"


def test_special_tokens_set_prompts_apart() -> None:
    raw = msgspec.Raw(b'"a"')
    assert texts_parts(raw, add_special_tokens=True) != texts_parts(raw, add_special_tokens=False)
