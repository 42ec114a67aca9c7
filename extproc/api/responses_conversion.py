"""The items of OpenAI's responses API as chat messages, as vLLM converts them before it renders a chat template.

One turn of the assistant may be several items (reasoning, text, tool calls), which become one message.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from extproc.api.tools import Function
from extproc.errors import InvalidRequest

_UNFINISHED = frozenset(("in_progress", "incomplete"))

Item = dict[str, Any]


def to_messages(instructions: str | None, items: str | Sequence[Item]) -> list[dict[str, Any]] | None:
    """Convert instructions and input; None when an item is of a kind that is not known here."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": instructions}] if instructions else []
    if isinstance(items, str):
        return [*messages, {"role": "user", "content": items}]
    for item in items:
        converted = _convert(item)
        if converted is None:
            return None
        if not (messages and _joined(messages[-1], converted)):
            messages.append(converted)
    return messages


def continues_last_item(items: str | Sequence[Item]) -> bool:
    """Whether the last item is a beginning that the model is to go on with."""
    if isinstance(items, str) or not items:
        return False
    last = items[-1]
    return last.get("type", "message") in {"message", "reasoning"} and last.get("status") in _UNFINISHED


def function_tools(tools: Sequence[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Return function tools as a chat template gets them; None when there is one of another kind."""
    converted = []
    for tool in tools or ():
        if tool.get("type") != "function":
            return None
        try:
            function = msgspec.convert({key: value for key, value in tool.items() if key != "type"}, Function)
        except msgspec.ValidationError as error:
            raise InvalidRequest(f"A tool is not of the right shape: {error}", param="tools") from error
        converted.append(function.as_tool())
    return converted


def _convert(item: Item) -> dict[str, Any] | None:
    """Return one item as a message of its own."""
    kind = item.get("type", "message")
    if kind == "function_call" and not item.get("namespace"):
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        return {"role": "assistant", "tool_calls": [call]}
    if kind == "function_call_output":
        return {"role": "tool", "content": item.get("output"), "tool_call_id": item.get("call_id")}
    if kind == "reasoning":
        text = _reasoning(item)
        return None if text is None else {"role": "assistant", "reasoning": text}
    if kind != "message" or "role" not in item:
        return None
    if item["role"] == "assistant":
        return _assistant(item)
    return {key: value for key, value in item.items() if key != "type"}


def _assistant(item: Item) -> dict[str, Any] | None:
    content = item.get("content")
    if isinstance(content, list) and content and isinstance(content[0], dict):
        content = content[0].get("text")
    return {"role": "assistant", "content": content} if isinstance(content, str) else None


def _reasoning(item: Item) -> str | None:
    if item.get("encrypted_content"):
        return None
    for field in ("content", "summary"):
        parts = item.get(field)
        if isinstance(parts, list) and parts and isinstance(parts[0], dict):
            return str(parts[0].get("text", ""))
    return ""


def _joined(last: dict[str, Any], new: dict[str, Any]) -> bool:
    """Put a part of an assistant's turn into the message before it, where that lacks it."""
    if not last["role"] == new["role"] == "assistant":
        return False
    if "tool_calls" in new:
        last.setdefault("tool_calls", []).extend(new["tool_calls"])
        return True
    (field,) = (name for name in new if name != "role")
    if last.get(field) is not None:
        return False
    last[field] = new[field]
    return True
