"""The items of OpenAI's responses API as chat messages, as vLLM converts them before it renders a chat template.

One turn of the assistant may be several items (reasoning, text, tool calls), which become one message.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from extproc.api.tools import flat_tools

_UNFINISHED = ("in_progress", "incomplete")
_ROLES = ("developer", "system", "user")
_OUTPUTS = ("custom_tool_call_output", "function_call_output")

# A custom tool takes a text instead of arguments; models see it as a function with this one argument.
_CUSTOM_ARGUMENT = "input"

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
    return last.get("type", "message") in ("message", "reasoning") and last.get("status") in _UNFINISHED


def function_tools(tools: Sequence[Item] | None) -> list[dict[str, Any]] | None:
    """Return the tools that a chat template gets, None when the request has none; raises :class:`InvalidRequest`.

    Functions in a namespace have its name before theirs. Tools that the server itself would run are left out.
    """
    return flat_tools(_functions(tools)) if tools else None


def _functions(tools: Sequence[Item]) -> Iterator[Item]:
    for tool in tools:
        kind = tool.get("type")
        if kind == "function":
            yield tool
        elif kind == "custom":
            yield {"name": tool.get("name"), "description": tool.get("description"), "parameters": _custom_parameters()}
        elif kind == "namespace" and isinstance(tool.get("tools"), list):
            for inner in tool["tools"]:
                if isinstance(inner, dict) and inner.get("type") == "function":
                    yield {**inner, "name": f"{tool.get('name')}__{inner.get('name')}"}


def _custom_parameters() -> dict[str, Any]:
    argument = {"type": "string", "description": "The freeform text payload for this tool."}
    return {
        "type": "object",
        "properties": {_CUSTOM_ARGUMENT: argument},
        "required": [_CUSTOM_ARGUMENT],
        "additionalProperties": False,
    }


def _convert(item: Item) -> dict[str, Any] | None:
    """Return one item as a message of its own."""
    kind = item.get("type", "message")
    if kind == "function_call":
        namespace, name = item.get("namespace"), item.get("name")
        return _call(item, f"{namespace}__{name}" if namespace else name, item.get("arguments"))
    if kind == "custom_tool_call":
        arguments = json.dumps({_CUSTOM_ARGUMENT: item.get("input") or ""}, ensure_ascii=False)
        return _call(item, item.get("name"), arguments)
    if kind == "reasoning":
        text = _reasoning(item)
        return None if text is None else {"role": "assistant", "reasoning": text}
    if kind in _OUTPUTS:
        return {"role": "tool", "content": item.get("output"), "tool_call_id": item.get("call_id")}
    return _message(item) if kind == "message" else None


def _call(item: Item, name: Any, arguments: Any) -> dict[str, Any]:  # noqa: ANN401
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"id": item.get("call_id"), "type": "function", "function": function}]}


def _message(item: Item) -> dict[str, Any] | None:
    """Return a message, of whose content vLLM takes the first part when it is the model's; None for one it refuses."""
    role, content = item.get("role"), item.get("content")
    if role == "assistant":
        if isinstance(content, list) and content and isinstance(content[0], dict):
            content = content[0].get("text")
        return {"role": "assistant", "content": content} if isinstance(content, str) or content == [] else None
    if role not in _ROLES:
        return None
    message = {key: value for key, value in item.items() if key != "type"}
    if isinstance(content, list):
        message["content"] = [_part(part) for part in content]
    return message


def _part(part: Any) -> Any:  # noqa: ANN401
    """Return a part of a content with vLLM's default, which templates may see."""
    if isinstance(part, dict) and part.get("type") == "input_image" and "detail" not in part:
        return {**part, "detail": "auto"}
    return part


def _reasoning(item: Item) -> str | None:
    if item.get("encrypted_content"):
        return None
    for field in ("content", "summary"):
        parts = item.get(field)
        if isinstance(parts, list) and parts:
            text = parts[0].get("text") if isinstance(parts[0], dict) else None
            return text if isinstance(text, str) else None
    return ""


def _joined(last: dict[str, Any], new: dict[str, Any]) -> bool:
    """Put a part of an assistant's turn into the message before it, where that lacks it."""
    if not last["role"] == new["role"] == "assistant":
        return False
    if "tool_calls" in new:
        last.setdefault("tool_calls", []).extend(new["tool_calls"])
        return True
    field = "reasoning" if "reasoning" in new else "content"
    if new[field] == [] or last.get(field) is not None:
        return False
    last[field] = new[field]
    return True
