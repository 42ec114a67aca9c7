"""Tool calls and tools as templates get them."""

import json
from typing import Any

import pytest

from extproc.errors import InvalidRequest
from extproc.prompt.tool_calls import template_tool_calls, template_tools

UNUSABLE: list[Any] = ["", None, {}, "{", "[1]", "5", "null", 5, [1], "{'a': 1}", '{"a": 1} x']


def called(arguments: Any) -> Any:  # noqa: ANN401
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}]
    return template_tool_calls(calls)[0]["function"]["arguments"]


@pytest.mark.parametrize(
    ("given", "arguments"),
    [
        ('{"a": [1, null]}', {"a": [1, None]}),
        ({"a": 1}, {"a": 1}),
        (' {"b": 1, "a": 2} ', {"b": 1, "a": 2}),
        *[(unusable, {}) for unusable in UNUSABLE],
    ],
)
def test_arguments_become_an_object(given: Any, arguments: dict[str, Any]) -> None:  # noqa: ANN401
    assert called(given) == arguments


@pytest.mark.parametrize("given", ["[" * 100_000, '{"a": ' + "1" * 5000 + "}"])
def test_arguments_that_no_engine_can_read_are_refused(given: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        called(given)
    assert refused.value.param == ".tool_calls"


def test_keys_come_in_the_order_of_the_engine() -> None:
    calls = [{"x": 1, "type": "function", "function": {"y": 2, "name": "f", "arguments": "{}"}, "id": "c"}]
    before = json.dumps(calls)
    expected = [{"id": "c", "function": {"arguments": {}, "name": "f", "y": 2}, "type": "function", "x": 1}]
    assert json.dumps(template_tool_calls(calls)) == json.dumps(expected)
    assert json.dumps(calls) == before


@pytest.mark.parametrize(
    "calls",
    [
        "x",
        {"a": 1},
        [5],
        [{}],
        [{"function": "f"}],
        [{"type": "custom", "function": {}}],
        [{"type": None, "function": {}}],
    ],
)
def test_other_calls_are_refused(calls: Any) -> None:  # noqa: ANN401
    with pytest.raises(InvalidRequest) as refused:
        template_tool_calls(calls)
    assert refused.value.param == ".tool_calls"


def test_tools_come_in_the_order_of_the_engine() -> None:
    tools = [{"type": "function", "function": {"strict": True, "parameters": {"b": 1, "a": 2}, "name": "f"}}]
    expected = [{"function": {"name": "f", "parameters": {"b": 1, "a": 2}, "strict": True}, "type": "function"}]
    assert json.dumps(template_tools(tools)) == json.dumps(expected)


@pytest.mark.parametrize("tools", ["x", [1], [{"name": "f"}], {}])
def test_what_does_not_look_like_tools_is_handed_on(tools: Any) -> None:  # noqa: ANN401
    assert template_tools(tools) == tools
