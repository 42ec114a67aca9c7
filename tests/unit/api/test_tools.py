"""Tools for templates; that they come out as from vLLM is tested in ``tests/conformance``."""

import json
from typing import Any

import msgspec
import pytest

from extproc.api.tools import decode_tools, flat_tools
from extproc.errors import InvalidRequest


def decoded(tools: Any) -> Any:  # noqa: ANN401
    return decode_tools(msgspec.Raw(json.dumps(tools).encode()))


def test_the_order_of_keys_is_that_of_the_engine() -> None:
    (tool,) = decoded(
        [
            {
                "function": {"strict": True, "x": 1, "parameters": {"b": 1, "a": 2}, "name": "f"},
                "y": 1,
                "type": "function",
            }
        ]
    )
    function = '{"name": "f", "description": null, "parameters": {"b": 1, "a": 2}, "strict": true}'
    assert json.dumps(tool) == f'{{"type": "function", "function": {function}}}'


@pytest.mark.parametrize(
    ("own", "of_function", "shown"), [(True, None, True), (True, False, False), (None, True, True)]
)
def test_a_deferred_tool_has_a_deferred_function(own: bool | None, of_function: bool | None, shown: bool) -> None:
    (tool,) = decoded([{"function": {"name": "f", "defer_loading": of_function}, "defer_loading": own}])
    assert tool["function"]["defer_loading"] is shown
    assert tool.get("defer_loading") is own


def test_no_tools_are_not_an_empty_list() -> None:
    assert decoded(None) is None
    assert decoded([]) == []


@pytest.mark.parametrize("tools", [{}, [1], [{}], [{"function": {}}], [{"function": {"name": 1}}]])
def test_what_is_no_tool_is_refused(tools: Any) -> None:  # noqa: ANN401
    with pytest.raises(InvalidRequest) as refused:
        decoded(tools)
    assert refused.value.param == "tools"


def test_flat_tools_become_functions() -> None:
    assert flat_tools([{"type": "custom", "name": "f", "description": "d", "input_schema": {}}]) == [
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": None}}
    ]
    with pytest.raises(InvalidRequest) as refused:
        flat_tools([{"name": "f"}, {}])
    assert refused.value.param == "tools"
