"""``/v1/messages``: Anthropic's chat, in its smallest form."""

from typing import Any

import msgspec

from workers.simulated.api.base import Answer, Question, decode, encode, named_event
from workers.simulated.api.chat import Message, Part, Positive, content_ids, message_ids
from workers.simulated.errors import bad_request


class _Request(msgspec.Struct):
    messages: list[Message]
    max_tokens: Positive
    model: str | None = None
    system: str | list[Part] | None = None
    stream: bool | None = None


class Messages:
    """Anthropic's messages; its streams have named events and no end mark."""

    id_prefix = "msg_"

    def read(self, body: bytes) -> Question:
        """Read a request."""
        request = decode(body, _Request)
        if not request.messages:
            raise bad_request("`messages` is empty.", param="messages")
        return Question(
            model=request.model,
            prompts=(content_ids(request.system) + message_ids(request.messages),),
            limit=request.max_tokens,
            stream=bool(request.stream),
        )

    def whole(self, answer: Answer) -> bytes:
        """Everything at once."""
        message = _message(answer, output_tokens=answer.tokens)
        content = [{"type": "text", "text": answer.text}]
        return encode(message | {"content": content, "stop_reason": _stop_reason(answer)})

    def opening(self, answer: Answer) -> bytes:
        """The message without content, and the start of its only block."""
        return named_event("message_start", {"message": _message(answer, output_tokens=0)}) + named_event(
            "content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}
        )

    def piece(self, answer: Answer, token: int) -> bytes:
        """One delta."""
        delta = {"type": "text_delta", "text": answer.word(token)}
        return named_event("content_block_delta", {"index": 0, "delta": delta})

    def closing(self, answer: Answer) -> bytes:
        """The end of the block, the reason and usage, the end of the message."""
        ending = {
            "delta": {"stop_reason": _stop_reason(answer), "stop_sequence": None},
            "usage": _usage(answer, output_tokens=answer.tokens),
        }
        return (
            named_event("content_block_stop", {"index": 0})
            + named_event("message_delta", ending)
            + named_event("message_stop", {})
        )


def _stop_reason(answer: Answer) -> str:
    return "max_tokens" if answer.finish == "length" else "end_turn"


def _usage(answer: Answer, *, output_tokens: int) -> dict[str, int]:
    cached = {} if answer.cached_tokens is None else {"cache_read_input_tokens": answer.cached_tokens}
    return {"input_tokens": answer.prompt_tokens, "output_tokens": output_tokens} | cached


def _message(answer: Answer, *, output_tokens: int) -> dict[str, Any]:
    return {
        "id": answer.stamp.id,
        "type": "message",
        "role": "assistant",
        "model": answer.stamp.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _usage(answer, output_tokens=output_tokens),
        "system_fingerprint": answer.stamp.worker,
    }
