"""Anthropic's messages; that they come out as from vLLM is tested in ``tests/conformance``."""

import pytest

from extproc.api.anthropic_conversion import (
    Block,
    Message,
    merge_inline_system,
    to_openai_messages,
    tools_in_effect,
)
from extproc.errors import InvalidRequest

REMOVAL = Message("system", [Block("tool_removal", tool={"type": "tool_reference", "name": "g"})])


def text(content: str) -> Block:
    return Block("text", text=content)


def test_the_results_of_tools_come_before_what_else_a_turn_has() -> None:
    result = Block("tool_result", tool_use_id="t1", content="r")
    assert to_openai_messages(None, [Message("user", [text("go on"), result])]) == [
        {"role": "tool", "tool_call_id": "t1", "content": "r"},
        {"role": "user", "content": "go on"},
    ]


def test_a_turn_of_the_user_without_content_is_left_out() -> None:
    assert to_openai_messages(None, [Message("user", [Block("redacted_thinking")]), Message("user", [])]) == []


def test_a_turn_of_the_model_stays_even_when_it_is_empty() -> None:
    assert to_openai_messages(None, [Message("assistant", [])]) == [{"role": "assistant"}]


def test_a_call_without_an_id_gets_one() -> None:
    (message,) = to_openai_messages(None, [Message("assistant", [Block("tool_use", name="f")])])
    (call,) = message["tool_calls"]
    assert call["id"]
    assert call["function"] == {"name": "f", "arguments": "{}"}


def test_the_client_s_billing_line_is_no_part_of_the_prompt() -> None:
    header = "x-anthropic-billing-header: cch=1"
    assert to_openai_messages([text(header), text("be brief")], [Message("system", header)]) == [
        {"role": "system", "content": "be brief"}
    ]


def test_system_messages_are_merged_in_their_order_with_nothing_between() -> None:
    user = {"role": "user", "content": "u"}
    systems = [{"role": "system", "content": content} for content in "abc"]
    merged = {"role": "system", "content": "abc"}
    assert merge_inline_system([systems[0], user, systems[1], user, systems[2]]) == [merged, user, user]
    assert merge_inline_system([user, systems[1]]) == [{"role": "system", "content": "b"}, user]
    assert merge_inline_system([user]) == [user]


def test_a_turn_can_change_the_tools() -> None:
    tools = [{"name": "f", "input_schema": {"type": "object"}}, {"name": "g", "input_schema": {"type": "object"}}]
    left = tools_in_effect(tools, [REMOVAL])
    assert left is not None
    assert [tool["function"]["name"] for tool in left] == ["f"]


def test_only_a_known_tool_can_be_removed() -> None:
    with pytest.raises(InvalidRequest) as refused:
        tools_in_effect([], [REMOVAL])
    assert refused.value.param == "messages"


def test_the_tools_of_a_request_are_not_changed() -> None:
    tools = [{"name": "f", "input_schema": {}}]
    assert tools_in_effect(tools, []) is not None
    assert tools == [{"name": "f", "input_schema": {}}]
