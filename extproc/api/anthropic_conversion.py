"""Anthropic's messages as OpenAI chat messages, as vLLM converts them before it renders a chat template."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from extproc.api.tools import flat_tools
from extproc.errors import InvalidRequest

_BILLING_HEADER = "x-anthropic-billing-header"
"""Begins a block that some clients add and whose content changes with every request; it is no part of the prompt."""


class Block(msgspec.Struct, frozen=True):
    """One content block of any type; a field that its type does not have is None."""

    type: str
    text: str | None = None
    source: dict[str, Any] | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | list[Any] | None = None
    tool: dict[str, Any] | None = None


class Message(msgspec.Struct, frozen=True):
    """One turn."""

    role: str
    content: str | list[Block]


def to_openai_messages(system: str | list[Block] | None, messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Convert a system text and turns; system messages among the turns stay where they are."""
    converted: list[dict[str, Any]] = []
    if isinstance(system, list):
        system = _system_text(system)
    if system:
        converted.append({"role": "system", "content": system})
    for message in messages:
        if message.role == "system":
            text = _system_text(message.content)
            if text:
                converted.append({"role": "system", "content": text})
        elif isinstance(message.content, str):
            converted.append({"role": message.role, "content": message.content})
        else:
            _convert_turn(message.role, message.content, converted)
    return converted


def merge_inline_system(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Make one system message of all, for a template that takes none but the first.

    Their texts follow each other as they stand, with nothing between them: the request's system text, then those among
    the turns in their order. The turns stay as they are.
    """
    texts = [message["content"] for message in messages if message["role"] == "system"]
    others = [message for message in messages if message["role"] != "system"]
    return [{"role": "system", "content": "".join(texts)}, *others] if texts else others


def tools_in_effect(tools: list[dict[str, Any]] | None, messages: Sequence[Message]) -> list[dict[str, Any]] | None:
    """Return the tools after what the turns add and remove, as a chat template gets them."""
    changes = [
        block
        for message in messages
        if not isinstance(message.content, str)
        for block in message.content
        if block.type in {"tool_addition", "tool_removal"}
    ]
    if not changes:
        return None if tools is None else flat_tools(map(_as_function, tools))
    known = {str(tool.get("name")): tool for tool in tools or ()}
    removed: set[str] = set()
    for block in changes:
        name = _apply_change(block, known)
        if block.type == "tool_removal":
            removed.add(name)
        else:
            removed.discard(name)
    return flat_tools(_as_function(tool) for name, tool in known.items() if name not in removed)


def _apply_change(block: Block, known: dict[str, dict[str, Any]]) -> str:
    change = block.tool or {}
    definition = change.get("definition")
    if isinstance(definition, dict):
        name = str(definition.get("name"))
        known[name] = definition
        return name
    name = str(change.get("name"))
    if name not in known:
        raise InvalidRequest(f"A {block.type} names a tool that is not declared in tools.", param="messages")
    if block.type == "tool_addition":
        known[name] = {key: value for key, value in known[name].items() if key != "defer_loading"}
    return name


def _as_function(tool: dict[str, Any]) -> dict[str, Any]:
    """Return a tool with its schema where a function has it; a schema without a type is that of an object."""
    schema = tool.get("input_schema")
    if isinstance(schema, dict) and "type" not in schema:
        schema = {**schema, "type": "object"}
    return {**tool, "parameters": schema}


def _system_text(content: str | Sequence[Block]) -> str:
    if isinstance(content, str):
        return "" if content.startswith(_BILLING_HEADER) else content
    texts = (block.text for block in content if block.type == "text" and block.text)
    return "".join(text for text in texts if not text.startswith(_BILLING_HEADER))


def _convert_turn(role: str, blocks: Sequence[Block], converted: list[dict[str, Any]]) -> None:
    """Append a turn; results of tools, which are messages of their own, come before what else it has."""
    if role == "user":
        converted += [message for block in blocks if block.type == "tool_result" for message in _tool_result(block)]
    parts = [part for block in blocks if (part := _part(role, block)) is not None]
    calls = [_call(block) for block in blocks if block.type == "tool_use"]
    reasoning = [block.thinking for block in blocks if block.type == "thinking" and block.thinking is not None]
    turn: dict[str, Any] = {"role": role}
    if reasoning:
        turn["reasoning"] = "".join(reasoning)
    if calls:
        turn["tool_calls"] = calls
    if parts:
        turn["content"] = parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts
    if role != "user" or parts:
        converted.append(turn)


def _part(role: str, block: Block) -> dict[str, Any] | None:
    """Return what a block adds to the content of its turn."""
    if block.type == "text" and block.text:
        return {"type": "text", "text": block.text}
    if block.type == "image" and block.source:
        return _image(block.source)
    if block.type == "tool_result" and role != "user":
        return {"type": "text", "text": f"Tool result: {block.content or ''}"}
    return None


def _call(block: Block) -> dict[str, Any]:
    return {
        "id": block.id or "call_0",
        "type": "function",
        "function": {"name": block.name or "", "arguments": _arguments(block.input or {})},
    }


def _arguments(values: dict[str, Any]) -> str:
    try:
        return json.dumps(values)
    except RecursionError as error:
        raise InvalidRequest("The messages are nested too deeply.", param="messages") from error


def _tool_result(block: Block) -> list[dict[str, Any]]:
    answer = {"role": "tool", "tool_call_id": block.tool_use_id or ""}
    if not isinstance(block.content, list):
        return [{**answer, "content": block.content or ""}]
    items = [item for item in block.content if isinstance(item, dict)]
    texts = [str(item.get("text", "")) for item in items if item.get("type") == "text"]
    messages: list[dict[str, Any]] = [{**answer, "content": "\n".join(texts)}]
    sources = [_source(item) for item in items if item.get("type") == "image"]
    images = [_image(source) for source in sources if source.get("type") != "url" or source.get("url")]
    if images:
        messages.append({"role": "user", "content": images})
    names = (item.get("tool_name") or item.get("name") for item in items if item.get("type") == "tool_reference")
    references = [{"type": "tool_reference", "name": name} for name in names if name]
    if references:
        messages.append({**answer, "content": references})
    return messages


def _source(item: dict[str, Any]) -> dict[str, Any]:
    source = item.get("source")
    return source if isinstance(source, dict) else {}


def _image(source: dict[str, Any]) -> dict[str, Any]:
    if source.get("type") == "url":
        url = source.get("url", "")
    else:
        url = f"data:{source.get('media_type', 'image/jpeg')};base64,{source.get('data', '')}"
    return {"type": "image_url", "image_url": {"url": url}}
