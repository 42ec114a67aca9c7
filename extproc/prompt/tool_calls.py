"""Tool calls of earlier answers, and tools that a developer message brings along."""

import json
from typing import Any

from extproc.errors import InvalidRequest

_PLACE = ".tool_calls"
# The order in which the engine's definitions name what they know; anything else follows as it came.
_CALL_KEYS = ("id", "function", "type")
_CALLED_KEYS = ("arguments", "name")
_TOOL_KEYS = ("function", "type")
_FUNCTION_KEYS = ("name", "description", "parameters", "strict")


def template_tool_calls(calls: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    """Convert the tool calls of a message: templates want the arguments as an object instead of JSON text.

    Raises ``InvalidRequest`` for anything but calls of functions.
    """
    if not isinstance(calls, list):
        raise InvalidRequest("Tool calls must be a list.", param=_PLACE)
    converted = []
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or call.get("type", "function") != "function":
            raise InvalidRequest("Every tool call must be the call of a function.", param=_PLACE)
        called = _ordered({**function, "arguments": _arguments(function.get("arguments"))}, _CALLED_KEYS)
        converted.append(_ordered({**call, "function": called}, _CALL_KEYS))
    return converted


def template_tools(tools: Any) -> Any:  # noqa: ANN401
    """Convert the tools of a developer message; what does not look like tools is handed on unchanged."""
    if not (
        isinstance(tools, list)
        and all(isinstance(tool, dict) and isinstance(tool.get("function"), dict) for tool in tools)
    ):
        return tools
    return [_ordered({**tool, "function": _ordered(tool["function"], _FUNCTION_KEYS)}, _TOOL_KEYS) for tool in tools]


def _arguments(arguments: Any) -> dict[str, Any]:  # noqa: ANN401
    if isinstance(arguments, str) and arguments:
        try:
            # Not msgspec: the engine takes NaN, lone surrogates and other liberties.
            arguments = json.loads(arguments)
        except json.JSONDecodeError:
            return {}
        except (ValueError, RecursionError) as error:
            raise InvalidRequest("The arguments of a tool call cannot be read.", param=_PLACE) from error
    return arguments if isinstance(arguments, dict) else {}


def _ordered(values: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    ordered = {key: values[key] for key in keys if key in values}
    return ordered if len(ordered) == len(values) else ordered | values
