"""``/v1/responses``, in its smallest form: one message of one text."""

import itertools
from typing import Any

import msgspec

from workers.simulated.api.base import Answer, Question, decode, encode, named_event, text_ids
from workers.simulated.api.chat import Part, Positive, content_ids
from workers.simulated.errors import bad_request

_EVENTS_BEFORE_FIRST_TOKEN = 4


class _Item(msgspec.Struct):
    content: str | list[Part] | None = None


class _Request(msgspec.Struct):
    input: str | list[_Item]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: Positive | None = None
    stream: bool | None = None
    cache_salt: str | None = None


class Responses:
    """OpenAI's responses; its streams have named, numbered events and no end mark."""

    id_prefix = "resp_"

    def read(self, body: bytes) -> Question:
        """Read a request."""
        request = decode(body, _Request)
        if not request.input:
            raise bad_request("`input` is empty.", param="input")
        asked = (
            text_ids(request.input)
            if isinstance(request.input, str)
            else b"".join(content_ids(item.content) for item in request.input)
        )
        return Question(
            model=request.model,
            prompts=(text_ids(request.instructions or "") + asked,),
            limit=request.max_output_tokens,
            stream=bool(request.stream),
            cache_salt=request.cache_salt or "",
        )

    def whole(self, answer: Answer) -> bytes:
        """Everything at once."""
        return encode(_finished(answer))

    def opening(self, answer: Answer) -> bytes:
        """The response without output, and the start of its only item and part."""
        started = {"response": _response(answer)}
        item = _item(answer, status="in_progress", content=[])
        events: list[tuple[str, dict[str, Any]]] = [
            ("response.created", started),
            ("response.in_progress", started),
            ("response.output_item.added", {"output_index": 0, "item": item}),
            ("response.content_part.added", _place(answer) | {"part": _part("")}),
        ]
        return _numbered(events, first=0)

    def piece(self, answer: Answer, token: int) -> bytes:
        """One delta."""
        delta = _place(answer) | {"delta": answer.word(token), "logprobs": []}
        return _numbered([("response.output_text.delta", delta)], first=_EVENTS_BEFORE_FIRST_TOKEN + token - 1)

    def closing(self, answer: Answer) -> bytes:
        """The end of the text, of the part and of the item, and the finished response."""
        text = answer.text
        item = _item(answer, status="completed", content=[_part(text)])
        last = "response.completed" if answer.finish == "stop" else "response.incomplete"
        events: list[tuple[str, dict[str, Any]]] = [
            ("response.output_text.done", _place(answer) | {"text": text, "logprobs": []}),
            ("response.content_part.done", _place(answer) | {"part": _part(text)}),
            ("response.output_item.done", {"output_index": 0, "item": item}),
            (last, {"response": _finished(answer)}),
        ]
        return _numbered(events, first=_EVENTS_BEFORE_FIRST_TOKEN + answer.tokens)


def _numbered(events: list[tuple[str, dict[str, Any]]], *, first: int) -> bytes:
    numbers = itertools.count(first)
    return b"".join(named_event(name, data | {"sequence_number": next(numbers)}) for name, data in events)


def _place(answer: Answer) -> dict[str, Any]:
    return {"item_id": f"msg_{answer.stamp.id}", "output_index": 0, "content_index": 0}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": []}


def _item(answer: Answer, *, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": f"msg_{answer.stamp.id}",
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": content,
    }


def _response(answer: Answer) -> dict[str, Any]:
    return {
        "id": answer.stamp.id,
        "object": "response",
        "created_at": answer.stamp.created,
        "model": answer.stamp.model,
        "status": "in_progress",
        "output": [],
        "usage": None,
        "error": None,
        "incomplete_details": None,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "system_fingerprint": answer.stamp.worker,
    }


def _finished(answer: Answer) -> dict[str, Any]:
    complete = answer.finish == "stop"
    return _response(answer) | {
        "status": "completed" if complete else "incomplete",
        "incomplete_details": None if complete else {"reason": "max_output_tokens"},
        "output": [_item(answer, status="completed", content=[_part(answer.text)])],
        "usage": {
            "input_tokens": answer.prompt_tokens,
            "input_tokens_details": {"cached_tokens": answer.cached_tokens or 0},
            "output_tokens": answer.tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": answer.prompt_tokens + answer.tokens,
        },
    }
