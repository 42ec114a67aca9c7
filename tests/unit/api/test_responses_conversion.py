"""Items as messages; that they come out as from vLLM is tested in ``tests/conformance``."""

from typing import Any

import pytest

from extproc.api.responses_conversion import continues_last_item, function_tools, to_messages
from extproc.errors import InvalidRequest

USER = {"role": "user", "content": "hi"}
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
REASONING = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}


def test_the_parts_of_one_turn_become_one_message() -> None:
    text = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "yes"}]}
    messages = to_messages(None, [USER, REASONING, text, CALL, CALL])
    assert messages is not None
    assert [list(message) for message in messages] == [
        ["role", "content"],
        ["role", "reasoning", "content", "tool_calls"],
    ]
    assert len(messages[1]["tool_calls"]) == 2


def test_a_second_text_begins_a_message() -> None:
    answers = [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert to_messages(None, [USER, *answers]) == [USER, *answers]


def test_items_are_not_changed() -> None:
    items: list[dict[str, Any]] = [{"role": "assistant", "content": "a"}, dict(CALL)]
    to_messages(None, items)
    assert items == [{"role": "assistant", "content": "a"}, CALL]


@pytest.mark.parametrize(
    "item",
    [
        {"type": "item_reference", "id": "x"},
        {"type": "web_search_call"},
        {"type": ["message"], "role": "user"},
        {"type": "reasoning", "summary": [], "encrypted_content": "x"},
        {"type": "reasoning", "summary": [{"text": 5}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "assistant", "content": None},
        {"role": "tool", "content": "x"},
        {"role": ["user"], "content": "x"},
        {"content": "x"},
    ],
)
def test_what_is_not_known_hides_the_prompt(item: dict[str, Any]) -> None:
    assert to_messages(None, [USER, item]) is None


@pytest.mark.parametrize(
    ("last", "continues"),
    [
        (REASONING | {"status": "in_progress"}, True),
        ({"role": "assistant", "content": "a", "status": "incomplete"}, True),
        (REASONING | {"status": "completed"}, False),
        (CALL | {"status": "incomplete"}, False),
        (REASONING | {"status": ["incomplete"]}, False),
        (USER, False),
    ],
)
def test_an_unfinished_last_item_is_continued(last: dict[str, Any], continues: bool) -> None:
    assert continues_last_item([USER, last]) is continues
    assert continues_last_item([last, USER]) is False


def test_a_text_and_no_item_are_not_continued() -> None:
    assert not continues_last_item("a")
    assert not continues_last_item([])


def test_tools_that_the_server_would_run_are_left_out() -> None:
    assert function_tools(None) is None
    assert function_tools([]) is None
    assert function_tools([{"type": "web_search"}, {"type": "namespace"}, {"type": "mcp", "tools": []}]) == []


def test_a_function_without_a_name_is_refused() -> None:
    with pytest.raises(InvalidRequest) as refused:
        function_tools([{"type": "function"}])
    assert refused.value.param == "tools"
