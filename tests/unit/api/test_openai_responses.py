"""``/v1/responses``."""

from typing import Any

import pytest

from extproc.api.prompt_input import ChatInput
from tests.support.readers import parse

PATH = "/v1/responses"


@pytest.mark.parametrize(
    "fields",
    [
        {"previous_response_id": "resp_1"},
        {"prompt": {"id": "p"}},
        {"kv_transfer_params": {"prompt_token_ids": [1]}},
    ],
)
def test_what_only_the_engine_knows_hides_the_prompt(fields: dict[str, Any]) -> None:
    body = parse(PATH, model="m", input="a", **fields)
    assert body.prompt_parts() is None
    assert body.prompt_input() is None


def test_an_item_that_is_not_known_hides_the_prompt() -> None:
    body = parse(PATH, model="m", input=[{"type": "item_reference", "id": "x"}])
    body.validate()
    assert body.prompt_input() is None


def test_the_tokenizer_adds_its_special_tokens() -> None:
    prompt = parse(PATH, model="m", input="a").prompt_input()
    assert isinstance(prompt, ChatInput)
    assert prompt.add_special_tokens
