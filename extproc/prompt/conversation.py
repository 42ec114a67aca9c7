"""From the messages of a request to what a chat template gets, as the engine does it.

The engine reads messages with typed definitions first, which puts the keys of what it knows into an order of its own,
and makes each message anew. Templates that print whole objects show that order, so it is kept here.
"""

from typing import Any, NamedTuple

from extproc.errors import InvalidRequest
from extproc.prompt.content_format import ContentFormat
from extproc.prompt.content_parts import BILLING_HEADER, PartReader, without_billing_header
from extproc.prompt.tool_calls import template_tool_calls, template_tools


class Conversation(NamedTuple):
    """What a chat template gets, and what it says nothing of.

    ``messages`` may share parts with the request, so neither may be changed. ``media`` are 16-byte hashes of the images
    and other media, in order: two conversations are the same when their messages and media are. ``exact`` tells whether
    rendering gives the text that the engine sees; with media it puts in more, which depends on the model.
    """

    messages: list[dict[str, Any]]
    media: tuple[bytes, ...]
    exact: bool


def to_conversation(messages: list[Any], *, content_format: ContentFormat) -> Conversation:
    """Convert OpenAI chat messages, as decoded from JSON.

    Raises ``InvalidRequest`` with the place (``messages[3].content[1].type``) of what is not understood. Where the
    engine is stricter, what it would refuse gets through here, and the engine refuses it.
    """
    wrap = content_format == "openai"
    converted: list[dict[str, Any]] = []
    reader = PartReader(wrap=wrap)
    for index, message in enumerate(messages):
        if type(message) is dict and len(message) == 2:  # noqa: PLR2004 - a role and a content, as most have
            role, content = message.get("role"), message.get("content")
            if type(content) is str and type(role) is str and (role != "system" or content[0:1] != BILLING_HEADER[0]):
                parts = [{"type": "text", "text": content}] if wrap and role != "tool" else content
                converted.append({"role": role, "content": parts})
                continue
        try:
            converted.append(_converted(message, reader))
        except InvalidRequest as error:
            raise InvalidRequest(error.message, param=f"messages[{index}]{error.param or ''}") from error
    return Conversation(converted, tuple(reader.media), not reader.media)


def _converted(message: Any, reader: PartReader) -> dict[str, Any]:  # noqa: ANN401
    """Convert a message of any kind; the place in an ``InvalidRequest`` begins at the message."""
    if not isinstance(message, dict):
        raise InvalidRequest("A message must be an object.")
    role = message.get("role")
    if not isinstance(role, str):
        raise InvalidRequest("A message must have a role, which is a text.", param=".role")
    content = _content(message.get("content"), role, reader)
    result: dict[str, Any] = {"role": role, "content": content}
    if role == "assistant":
        _add_answer(result, message)
    elif role == "tool":
        if message.get("tool_call_id") is not None:
            result["tool_call_id"] = message["tool_call_id"]
        if isinstance(content, list):
            result["content"] = _joined(content)
    for key in ("name", "task"):
        if key in message and isinstance(message[key], str):
            result[key] = message[key]
    if role == "developer" and message.get("tools") is not None:
        result["tools"] = template_tools(message["tools"])
    return result


def _content(content: Any, role: str, reader: PartReader) -> str | list[Any]:  # noqa: ANN401
    if content is None:
        parts = []
    elif isinstance(content, str):
        parts = [content]
    elif isinstance(content, list):
        parts = content
    else:
        raise InvalidRequest("The content of a message must be a text or a list of parts.", param=".content")
    return reader.read(without_billing_header(parts) if role == "system" else parts)


def _add_answer(result: dict[str, Any], message: dict[str, Any]) -> None:
    """Add what only messages of the model have."""
    tool_calls = message.get("tool_calls")
    # An empty list would take templates onto the path for tool calls.
    if tool_calls is not None and tool_calls != []:
        result["tool_calls"] = template_tool_calls(tool_calls)
    reasoning = message.get("reasoning")
    if reasoning is None:
        reasoning = message.get("reasoning_content")
    if reasoning is not None:
        result["reasoning"] = reasoning
        result["reasoning_content"] = reasoning


def _joined(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Join the texts of a tool's answer, which most templates take as one text only."""
    if any(part["type"] != "text" for part in parts):
        return parts
    return "\n".join([part["text"] for part in parts])
