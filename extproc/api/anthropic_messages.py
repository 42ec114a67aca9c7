"""``/v1/messages`` (Anthropic)."""

import msgspec

from extproc.api.body import RequestBody


class ContentBlock(msgspec.Struct, frozen=True):
    """One content block; only ``text`` blocks carry ``text``."""

    type: str
    text: str | None = None


class Message(msgspec.Struct, frozen=True):
    """One turn."""

    role: str
    content: str | list[ContentBlock]


class MessagesRequest(RequestBody, frozen=True, kw_only=True):
    """The prompt is the system text and the turns."""

    messages: list[Message]
    system: str | list[ContentBlock] | None = None


decoder = msgspec.json.Decoder(MessagesRequest)
