"""Messages of requests; that they become what the engine makes of them is tested in ``tests/conformance``."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.errors import InvalidRequest
from extproc.prompt.content_format import ContentFormat
from extproc.prompt.conversation import to_conversation

FORMATS: list[ContentFormat] = ["string", "openai"]
formats = st.sampled_from(FORMATS)
IMAGE = {"type": "image_url", "image_url": {"url": "http://example.org/a.png"}}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "function", "arguments", "image_url", "url", "x"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


def test_no_message_is_an_empty_conversation() -> None:
    assert to_conversation([], content_format="string") == ([], (), True)


@pytest.mark.parametrize("role", ["user", "assistant", "system", "developer", "anything"])
def test_a_plain_message_becomes_a_text_or_a_part(role: str) -> None:
    messages = [{"role": role, "content": "hi"}]
    assert to_conversation(messages, content_format="string").messages == messages
    wrapped = [{"role": role, "content": [{"type": "text", "text": "hi"}]}]
    assert to_conversation(messages, content_format="openai").messages == wrapped


@pytest.mark.parametrize("content_format", FORMATS)
def test_the_answer_of_a_tool_is_one_text(content_format: ContentFormat) -> None:
    expected = [{"role": "tool", "content": "a\nb"}]
    for content in ("a\nb", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]):
        assert (
            to_conversation([{"role": "tool", "content": content}], content_format=content_format).messages == expected
        )


@pytest.mark.parametrize("content_format", FORMATS)
def test_media_make_a_conversation_inexact(content_format: ContentFormat) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "see"}, IMAGE]}, {"role": "user", "content": "x"}]
    conversation = to_conversation(messages, content_format=content_format)
    assert not conversation.exact
    assert [len(hash_) for hash_ in conversation.media] == [16]
    shown = conversation.messages[0]["content"]
    assert shown == ("see" if content_format == "string" else [{"type": "text", "text": "see"}, {"type": "image"}])


@pytest.mark.parametrize(
    ("message", "place"),
    [
        ("text", ""),
        (None, ""),
        ([], ""),
        ({}, ".role"),
        ({"content": "x"}, ".role"),
        ({"role": None, "content": "x"}, ".role"),
        ({"role": ["user"], "content": "x"}, ".role"),
        ({"role": {}, "content": "x", "name": "n"}, ".role"),
        ({"role": "user", "content": 5}, ".content"),
        ({"role": "user", "content": {"type": "text", "text": "x"}}, ".content"),
        ({"role": "user", "content": [5]}, ".content[0]"),
        ({"role": "user", "content": ["x", {"text": "x"}]}, ".content[1].type"),
        ({"role": "system", "content": [{"type": "weird"}]}, ".content[0].type"),
        ({"role": "user", "content": [{"type": "text", "text": 5}]}, ".content[0].text"),
        ({"role": "assistant", "content": None, "tool_calls": "x"}, ".tool_calls"),
        ({"role": "assistant", "tool_calls": [{}]}, ".tool_calls"),
    ],
)
@pytest.mark.parametrize("content_format", FORMATS)
def test_a_refusal_names_the_place(message: Any, place: str, content_format: ContentFormat) -> None:  # noqa: ANN401
    messages = [{"role": "user", "content": "x"}, message]
    with pytest.raises(InvalidRequest) as refused:
        to_conversation(messages, content_format=content_format)
    assert refused.value.param == f"messages[1]{place}"


@given(st.lists(st.dictionaries(st.sampled_from(["role", "content", "tool_calls", "tools"]), json_values)), formats)
def test_any_json_is_converted_or_refused(messages: list[Any], content_format: ContentFormat) -> None:
    with contextlib.suppress(InvalidRequest):
        conversation = to_conversation(messages, content_format=content_format)
        assert [message["role"] for message in conversation.messages] == [message["role"] for message in messages]
        assert all(value is not None for message in conversation.messages for value in message.values())
        assert conversation.exact == (not conversation.media)


def test_a_refusal_never_quotes_the_prompt() -> None:
    for part in ({"type": "secret"}, {"type": "text", "text": ["secret"]}, ["secret"], {"secret": "secret"}):
        with pytest.raises(InvalidRequest) as refused:
            to_conversation([{"role": "user", "content": [part]}], content_format="string")
        assert "secret" not in f"{refused.value.message}{refused.value.param}"
