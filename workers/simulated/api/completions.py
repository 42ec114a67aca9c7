"""``/v1/completions``."""

from typing import Annotated, Any

import msgspec

from workers.simulated.api.base import (
    Answer,
    PromptItem,
    Question,
    decode,
    encode,
    event,
    read_prompts,
)
from workers.simulated.api.chat import MAX_CHOICES, Positive, StreamOptions


class _Request(msgspec.Struct):
    prompt: str | list[PromptItem]
    model: str | None = None
    max_tokens: Positive | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    cache_salt: str | None = None


class Completions:
    """OpenAI's plain completions: one choice for each prompt and ``n``."""

    id_prefix = "cmpl-"

    def read(self, body: bytes) -> Question:
        """Read a request."""
        request = decode(body, _Request)
        prompts = read_prompts(request.prompt, param="prompt")
        return Question(
            model=request.model,
            prompts=prompts,
            limit=request.max_tokens,
            choices=len(prompts) * (request.n or 1),
            stream=bool(request.stream),
            include_usage=bool(request.stream_options and request.stream_options.include_usage),
            cache_salt=request.cache_salt or "",
        )

    def whole(self, answer: Answer) -> bytes:
        """Everything at once."""
        text = answer.text
        choices = [_choice(index, text, answer.finish) for index in range(answer.choices)]
        return encode(_head(answer) | {"choices": choices, "usage": answer.usage()})

    def opening(self, answer: Answer) -> bytes:  # noqa: ARG002 - the first token is the first event
        """Nothing."""
        return b""

    def piece(self, answer: Answer, token: int) -> bytes:
        """One chunk a choice."""
        return self._chunks(answer, answer.word(token), None)

    def closing(self, answer: Answer) -> bytes:
        """The chunks with the reason of the end, the usage if asked for, and the end mark."""
        end = self._chunks(answer, "", answer.finish)
        if answer.include_usage:
            end += event(_head(answer) | {"choices": [], "usage": answer.usage()})
        return end + b"data: [DONE]\n\n"

    def _chunks(self, answer: Answer, text: str, finish: str | None) -> bytes:
        head = _head(answer)
        return b"".join(event(head | {"choices": [_choice(index, text, finish)]}) for index in range(answer.choices))


def _choice(index: int, text: str, finish: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish, "stop_reason": None}


def _head(answer: Answer) -> dict[str, Any]:
    stamp = answer.stamp
    return {
        "id": stamp.id,
        "object": "text_completion",
        "created": stamp.created,
        "model": stamp.model,
        "system_fingerprint": stamp.worker,
    }
