"""``/v1/messages``."""

from typing import Any

import pytest

from extproc.api.prompt_input import ChatInput
from extproc.errors import InvalidRequest
from tests.support.readers import parse

PATH = "/v1/messages"
USER = {"role": "user", "content": "hi"}


def converted(**fields: Any) -> ChatInput:  # noqa: ANN401
    prompt = parse(PATH, model="m", **{"messages": [USER], **fields}).prompt_input()
    assert isinstance(prompt, ChatInput)
    return prompt


def test_system_messages_may_stand_anywhere() -> None:
    messages = [USER, {"role": "system", "content": "later"}]
    prompt = converted(messages=messages, system="first")
    assert prompt.inline_system
    assert prompt.messages == [{"role": "system", "content": "first"}, *messages]


def test_turning_thinking_off_wins_over_an_effort() -> None:
    prompt = converted(thinking={"type": "disabled"}, output_config={"effort": "high"})
    assert prompt.kwargs == {"reasoning_effort": "none", "enable_thinking": False}


def test_blocks_of_the_wrong_shape_are_let_through_until_the_prompt_is_needed() -> None:
    body = parse(PATH, model="m", messages=[{"role": "assistant", "content": [{"type": "tool_use", "input": "x"}]}])
    body.validate()
    with pytest.raises(InvalidRequest) as refused:
        body.prompt_input()
    assert refused.value.param == "messages"


@pytest.mark.parametrize("content", [None, 5, [{"text": "no type"}], [{"type": "text", "text": 5}], ["a"]])
def test_contents_of_the_wrong_shape_are_refused(content: Any) -> None:  # noqa: ANN401
    with pytest.raises(InvalidRequest) as refused:
        parse(PATH, model="m", messages=[{"role": "user", "content": content}]).validate()
    assert refused.value.param == "messages"


def test_forwarded_ids_hide_the_prompt() -> None:
    body = parse(PATH, model="m", messages=[USER], kv_transfer_params={"prompt_token_ids": [1]})
    assert body.prompt_parts() is None
    assert body.prompt_input() is None
