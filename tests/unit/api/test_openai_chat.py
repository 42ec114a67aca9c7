"""``/v1/chat/completions``."""

import json
from typing import Any

import pytest

from extproc.api.body import decode
from extproc.api.openai_chat import decoder
from extproc.api.prompt_input import ChatInput
from extproc.errors import InvalidRequest
from tests.support.readers import parse

PATH = "/v1/chat/completions"
USER = {"role": "user", "content": "hi"}


def test_defaults_are_those_of_the_engine() -> None:
    prompt = parse(PATH, model="m", messages=[USER]).prompt_input()
    assert prompt == ChatInput(messages=[USER])
    assert isinstance(prompt, ChatInput)
    assert prompt.add_generation_prompt
    assert not prompt.add_special_tokens
    assert not prompt.inline_system


def test_messages_are_not_decoded_before_they_are_needed() -> None:
    body = parse(PATH, model="m", messages=[{"content": 5}])
    assert body.prompt_parts() is not None
    with pytest.raises(InvalidRequest):
        body.validate()


def test_messages_are_kept_as_they_came() -> None:
    text = '{"model":"m","messages":[ {"role" : "user","content":"\\u0061"} ]}'
    other = text.replace("\\u0061", "a")
    assert decode(decoder, text.encode()).prompt_parts() != decode(decoder, other.encode()).prompt_parts()
    assert decode(decoder, text.encode()).prompt_input() == decode(decoder, other.encode()).prompt_input()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"documents": ["d"]}, "documents"),
        ({"chat_template_kwargs": 5}, "chat_template_kwargs"),
        ({"messages": {}}, "messages"),
        ({"continue_final_message": True}, "continue_final_message"),
    ],
)
def test_a_field_of_the_prompt_that_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(PATH, model="m", **{"messages": [USER], **fields}).prompt_input()
    assert refused.value.param == param


def test_forwarded_ids_hide_the_prompt() -> None:
    body = parse(PATH, model="m", messages=[USER], kv_transfer_params={"prompt_token_ids": [1]})
    assert body.prompt_parts() is None
    assert body.prompt_input() is None


def test_a_whole_document_is_not_needed_to_tell_prompts_apart() -> None:
    long = [{"role": "user", "content": "x" * 1000}] * 40
    parts = parse(PATH, model="m", messages=long).prompt_parts()
    assert parts is not None
    assert json.dumps(long).encode() in parts
