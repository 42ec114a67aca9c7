"""``/v1/chat/completions`` (OpenAI), as vLLM accepts it."""

import msgspec

from extproc.api.body import RequestBody


class ContentPart(msgspec.Struct, frozen=True):
    """One part of a message's content; only ``text`` parts carry ``text``."""

    type: str | None = None
    text: str | None = None


class ChatMessage(msgspec.Struct, frozen=True):
    """One message. vLLM also takes bare strings as content parts."""

    role: str
    content: str | list[ContentPart | str] | None = None


class ChatCompletionRequest(RequestBody, frozen=True, kw_only=True):
    """The prompt is the list of messages."""

    messages: list[ChatMessage]


decoder = msgspec.json.Decoder(ChatCompletionRequest)
