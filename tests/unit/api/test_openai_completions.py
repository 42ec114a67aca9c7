"""``/v1/completions``."""

from typing import Any

import pytest

from extproc.api.prompt_input import TextInput
from tests.support.readers import parse

PATH = "/v1/completions"


@pytest.mark.parametrize(
    "fields", [{}, {"prompt": None}, {"prompt_embeds": "e"}, {"prompt": "a", "prompt_embeds": "e"}]
)
def test_without_a_text_there_is_no_prompt(fields: dict[str, Any]) -> None:
    body = parse(PATH, model="m", **fields)
    body.validate()
    assert body.prompt_parts() is None
    assert body.prompt_input() is None


def test_special_tokens_are_added_unless_the_request_says_otherwise() -> None:
    bodies = [parse(PATH, model="m", prompt="a", **fields) for fields in ({}, {"add_special_tokens": False})]
    prompts = [TextInput(("a",), add_special_tokens=True), TextInput(("a",), add_special_tokens=False)]
    assert [body.prompt_input() for body in bodies] == prompts
    assert bodies[0].prompt_parts() != bodies[1].prompt_parts()
