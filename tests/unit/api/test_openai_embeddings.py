"""``/v1/embeddings`` and ``/pooling``."""

from typing import Any

import pytest

from extproc.api.prompt_input import ChatInput, TextInput
from tests.support.readers import parse

PATH = "/v1/embeddings"
USER = {"role": "user", "content": "hi"}


def test_texts_get_special_tokens_and_chats_do_not() -> None:
    assert parse(PATH, model="m", input="a").prompt_input() == TextInput(("a",), add_special_tokens=True)
    chat = ChatInput(messages=[USER], add_generation_prompt=False, add_special_tokens=False)
    assert parse(PATH, model="m", messages=[USER]).prompt_input() == chat


def test_what_the_engine_does_not_read_here_changes_nothing() -> None:
    unread = {"tools": [{"function": {"name": "f"}}], "reasoning_effort": "low", "documents": [{"text": "t"}]}
    body, plain = parse(PATH, model="m", messages=[USER], **unread), parse(PATH, model="m", messages=[USER])
    assert body.prompt_parts() == plain.prompt_parts()
    assert body.prompt_input() == plain.prompt_input()


def test_the_input_can_be_a_chat() -> None:
    prompt = parse(PATH, model="m", input=[USER], add_generation_prompt=True).prompt_input()
    assert prompt == ChatInput(messages=[USER])


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"input": None},
        {"data": {"a": 1}},
        {"input": "a", "padding": "max_length"},
        {"messages": [USER], "padding": "max_length"},
    ],
)
def test_what_cannot_be_known_is_no_prompt(fields: dict[str, Any]) -> None:
    body = parse("/pooling", model="m", **fields)
    body.validate()
    assert body.prompt_parts() is None
    assert body.prompt_input() is None


@pytest.mark.parametrize("entries", [[{"image": "x"}], [USER, "a"], [USER, {"role": 5}]])
def test_objects_that_are_no_messages_hide_the_prompt(entries: list[Any]) -> None:
    body = parse(PATH, model="m", input=entries)
    body.validate()
    assert body.prompt_input() is None
