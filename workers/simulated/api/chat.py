"""``/v1/chat/completions``."""

from typing import Annotated, Any

import msgspec

from workers.simulated.api.base import BYTES_PER_TOKEN, Answer, Question, decode, encode, event, text_ids
from workers.simulated.errors import bad_request

MAX_CHOICES = 128
Positive = Annotated[int, msgspec.Meta(ge=1)]


class Part(msgspec.Struct):
    """A piece of a message; only text is counted."""

    text: str | None = None


class Message(msgspec.Struct):
    """One message of a conversation."""

    role: str
    content: str | list[Part] | None = None


class StreamOptions(msgspec.Struct):
    """How a stream ends."""

    include_usage: bool | None = None


class _Request(msgspec.Struct):
    messages: list[Message]
    model: str | None = None
    max_tokens: Positive | None = None
    max_completion_tokens: Positive | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    cache_salt: str | None = None


def message_ids(messages: list[Message]) -> bytes:
    """Token ids of a conversation: those of its texts, without any template."""
    return b"".join(content_ids(message.content) for message in messages)


def content_ids(content: str | list[Part] | None) -> bytes:
    """Token ids of one message's texts."""
    if isinstance(content, str):
        return text_ids(content)
    return b"".join(text_ids(part.text) for part in content or () if part.text)


def count_message_tokens(messages: list[Message]) -> int:
    """Tokens of a conversation: those of its texts, without any template."""
    return len(message_ids(messages)) // BYTES_PER_TOKEN


def count_content(content: str | list[Part] | None) -> int:
    """Tokens of one message's texts."""
    return len(content_ids(content)) // BYTES_PER_TOKEN


class ChatCompletions:
    """OpenAI's chat."""

    id_prefix = "chatcmpl-"

    def read(self, body: bytes) -> Question:
        """Read a request."""
        request = decode(body, _Request)
        if not request.messages:
            raise bad_request("`messages` is empty.", param="messages")
        return Question(
            model=request.model,
            prompts=(message_ids(request.messages),),
            limit=request.max_completion_tokens or request.max_tokens,
            choices=request.n or 1,
            stream=bool(request.stream),
            include_usage=bool(request.stream_options and request.stream_options.include_usage),
            cache_salt=request.cache_salt or "",
        )

    def whole(self, answer: Answer) -> bytes:
        """Everything at once."""
        message: dict[str, Any] = {
            "role": "assistant",
            "content": answer.text,
            "refusal": None,
            "tool_calls": [],
            "reasoning": None,
        }
        choices = [
            {
                "index": index,
                "message": message,
                "logprobs": None,
                "finish_reason": answer.finish,
                "stop_reason": None,
                "token_ids": None,
            }
            for index in range(answer.choices)
        ]
        return encode(_head(answer, "chat.completion") | {"choices": choices, "usage": answer.usage()})

    def opening(self, answer: Answer) -> bytes:
        """The chunks that only name the role."""
        return self._chunks(answer, {"role": "assistant", "content": ""}, None)

    def piece(self, answer: Answer, token: int) -> bytes:
        """One chunk a choice."""
        return self._chunks(answer, {"content": answer.word(token)}, None)

    def closing(self, answer: Answer) -> bytes:
        """The chunks with the reason of the end, the usage if asked for, and the end mark."""
        end = self._chunks(answer, {}, answer.finish)
        if answer.include_usage:
            end += event(_head(answer, "chat.completion.chunk") | {"choices": [], "usage": answer.usage()})
        return end + b"data: [DONE]\n\n"

    def _chunks(self, answer: Answer, delta: dict[str, str], finish: str | None) -> bytes:
        head = _head(answer, "chat.completion.chunk")
        return b"".join(
            event(head | {"choices": [{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}]})
            for index in range(answer.choices)
        )


def _head(answer: Answer, kind: str) -> dict[str, Any]:
    stamp = answer.stamp
    return {
        "id": stamp.id,
        "object": kind,
        "created": stamp.created,
        "model": stamp.model,
        "system_fingerprint": stamp.worker,
    }
