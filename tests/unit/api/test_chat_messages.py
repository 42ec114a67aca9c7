"""Chats; what each of their fields becomes is tested in ``tests/conformance``."""

import msgspec
import pytest

from extproc.api.body import NULL
from extproc.api.chat_messages import ChatPrompt, check_messages
from extproc.api.prompt_input import ChatInput
from extproc.errors import InvalidRequest

MESSAGES = msgspec.Raw(b'[{"role":"user","content":"hi"}]')


def prompt(messages: msgspec.Raw = MESSAGES, *, adds: bool = True, continues: bool = False) -> ChatPrompt:
    return ChatPrompt(messages, None, NULL, adds, continues, add_special_tokens=False)


def test_messages_are_handed_over_as_they_came() -> None:
    messages = msgspec.Raw(b'[{"content":[1,{"x":null}],"role":"?"},5]')
    converted = prompt(messages).convert()
    assert isinstance(converted, ChatInput)
    assert converted.messages == [{"content": [1, {"x": None}], "role": "?"}, 5]


def test_parts_are_the_fields_as_they_came() -> None:
    assert bytes(MESSAGES) in prompt().parts()
    assert prompt().parts() != prompt(adds=False).parts()
    assert prompt().parts() != prompt(msgspec.Raw(b"[]")).parts()


def test_a_message_cannot_be_both_continued_and_answered() -> None:
    with pytest.raises(InvalidRequest) as refused:
        prompt(continues=True).convert()
    assert refused.value.param == "continue_final_message"


def test_a_refusal_names_the_field_that_the_messages_came_from() -> None:
    with pytest.raises(InvalidRequest) as refused:
        prompt(msgspec.Raw(b"5")).convert("input")
    assert refused.value.param == "input"


@pytest.mark.parametrize("messages", [b"{}", b'[{"content":"x"}]', b'[{"role":"user","content":5}]', b"[1]"])
def test_the_shape_of_messages_is_checked(messages: bytes) -> None:
    check_messages(MESSAGES)
    with pytest.raises(InvalidRequest) as refused:
        check_messages(msgspec.Raw(messages))
    assert refused.value.param == "messages"
