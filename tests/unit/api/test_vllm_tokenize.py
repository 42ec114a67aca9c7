"""``/tokenize``."""

import pytest

from extproc.api.prompt_input import ChatInput, TextInput
from extproc.errors import InvalidRequest
from tests.support.readers import parse

PATH = "/tokenize"
USER = {"role": "user", "content": "hi"}


def test_texts_get_special_tokens_and_chats_do_not() -> None:
    assert parse(PATH, model="m", prompt="a").prompt_input() == TextInput(("a",), add_special_tokens=True)
    assert parse(PATH, model="m", messages=[USER]).prompt_input() == ChatInput(messages=[USER])


def test_messages_come_before_a_text() -> None:
    assert parse(PATH, model="m", prompt="a", messages=[USER]).prompt_input() == ChatInput(messages=[USER])


def test_what_the_engine_does_not_read_here_changes_nothing() -> None:
    body = parse(
        PATH, model="m", messages=[USER], tool_choice="none", reasoning_effort="low", documents=[{"text": "t"}]
    )
    assert body.prompt_parts() == parse(PATH, model="m", messages=[USER]).prompt_parts()


def test_a_chat_is_the_same_prompt_as_in_chat_completions() -> None:
    chat = parse("/v1/chat/completions", model="m", messages=[USER])
    assert parse(PATH, model="m", messages=[USER]).prompt_parts() == chat.prompt_parts()


def test_without_either_there_is_no_prompt() -> None:
    body = parse(PATH, model="m")
    body.validate()
    assert body.prompt_parts() is None
    assert body.prompt_input() is None


def test_messages_must_be_objects() -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(PATH, model="m", messages=["a"]).validate()
    assert refused.value.param == "messages"
