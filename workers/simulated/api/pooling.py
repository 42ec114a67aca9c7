"""Paths that read a prompt and generate nothing: embeddings, pooling, score, rerank and tokenize.

Vectors and scores are made from the texts' token counts: the same input gives the same answer, and no more is meant.
"""

import base64
import struct
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from workers.simulated.api.base import (
    BYTES_PER_TOKEN,
    MAX_PROMPTS,
    Pooled,
    PromptItem,
    Stamp,
    count_tokens,
    decode,
    read_prompts,
    token_ids,
)
from workers.simulated.api.chat import Message, Part, count_content, count_message_tokens
from workers.simulated.errors import bad_request

DIMENSIONS = 8
Item = TypeVar("Item")


class _Vectors(msgspec.Struct):
    input: str | list[PromptItem] | None = None
    messages: list[Message] | None = None
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None


class _Score(msgspec.Struct):
    text_1: str | list[str] | None = None
    text_2: str | list[str] | None = None
    queries: str | list[str] | None = None
    documents: str | list[str] | None = None
    model: str | None = None


class _Document(msgspec.Struct):
    content: list[Part]


class _Rerank(msgspec.Struct):
    query: str
    documents: list[str | _Document]
    model: str | None = None
    top_n: Annotated[int, msgspec.Meta(ge=0)] = 0


class _Tokenize(msgspec.Struct):
    prompt: str | None = None
    messages: list[Message] | None = None
    model: str | None = None


def embeddings(body: bytes) -> Pooled:
    """``/v1/embeddings``."""
    return _vectors(body, kind="embedding", key="embedding")


def pooling(body: bytes) -> Pooled:
    """``/pooling``."""
    return _vectors(body, kind="pooling", key="data")


def score(body: bytes) -> Pooled:
    """``/score``: one text against each of several, or texts pair by pair."""
    request = decode(body, _Score)
    left = _texts(request.text_1 if request.text_1 is not None else request.queries, param="text_1")
    right = _texts(request.text_2 if request.text_2 is not None else request.documents, param="text_2")
    if len(left) not in (1, len(right)):
        raise bad_request("`text_1` needs one text, or as many as `text_2`.", param="text_1")
    left = left * len(right) if len(left) == 1 else left
    pairs = [(count_tokens(one), count_tokens(other)) for one, other in zip(left, right, strict=True)]
    tokens = sum(map(sum, pairs))

    def word(stamp: Stamp) -> dict[str, Any]:
        data = [{"index": index, "object": "score", "score": _similarity(*pair)} for index, pair in enumerate(pairs)]
        return _list_head(stamp) | {"data": data, "usage": _usage(tokens)}

    return Pooled(model=request.model, prompt_tokens=tokens, word=word)


def rerank(body: bytes) -> Pooled:
    """``/v1/rerank``: the documents by falling score."""
    request = decode(body, _Rerank)
    documents = _limited(request.documents, param="documents")
    query = count_tokens(request.query)
    counts = [count_tokens(item) if isinstance(item, str) else count_content(item.content) for item in documents]
    tokens = query * len(counts) + sum(counts)

    def word(stamp: Stamp) -> dict[str, Any]:
        results = [
            {
                "index": index,
                "document": {"text": item if isinstance(item, str) else None, "multi_modal": None},
                "relevance_score": _similarity(query, count),
            }
            for index, (item, count) in enumerate(zip(documents, counts, strict=True))
        ]
        results.sort(key=lambda result: -float(str(result["relevance_score"])))
        return {
            "id": stamp.id,
            "model": stamp.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            "results": results[: request.top_n or None],
            "system_fingerprint": stamp.worker,
        }

    return Pooled(model=request.model, prompt_tokens=tokens, word=word)


def tokenize(body: bytes, *, max_model_len: int) -> Pooled:
    """``/tokenize``; answered by the API server, so the engine is not asked."""
    request = decode(body, _Tokenize)
    if request.prompt is not None:
        text = request.prompt
    elif request.messages is not None:
        text = "".join(map(_text_of, request.messages))
    else:
        raise bad_request("`prompt` or `messages` is needed.", param="prompt")
    tokens = token_ids(text)

    def word(stamp: Stamp) -> dict[str, Any]:
        return {
            "count": len(tokens),
            "max_model_len": max_model_len,
            "tokens": tokens,
            "token_strs": None,
            "system_fingerprint": stamp.worker,
        }

    return Pooled(model=request.model, prompt_tokens=len(tokens), word=word, needs_engine=False)


def _vectors(body: bytes, *, kind: str, key: str) -> Pooled:
    request = decode(body, _Vectors)
    if request.messages is not None:
        counts = [count_message_tokens(request.messages)]
    elif request.input is not None:
        counts = [len(ids) // BYTES_PER_TOKEN for ids in read_prompts(request.input, param="input")]
    else:
        raise bad_request("`input` or `messages` is needed.", param="input")

    def word(stamp: Stamp) -> dict[str, Any]:
        data = [
            {"index": index, "object": kind, key: _vector(count, request.encoding_format or "float")}
            for index, count in enumerate(counts)
        ]
        return _list_head(stamp) | {"data": data, "usage": _usage(sum(counts))}

    return Pooled(model=request.model, prompt_tokens=sum(counts), word=word)


def _floats(tokens: int) -> tuple[float, ...]:
    # Multiples of 1/1024 are exact as 32-bit floats, so both encodings give the same numbers.
    return tuple((tokens * (place + 1) % 1024) / 1024 for place in range(DIMENSIONS))


def _vector(tokens: int, encoding: Literal["float", "base64"]) -> list[float] | str:
    floats = _floats(tokens)
    if encoding == "float":
        return list(floats)
    return base64.b64encode(struct.pack(f"<{DIMENSIONS}f", *floats)).decode("ascii")


def _similarity(one: int, other: int) -> float:
    return round(1 / (1 + abs(one - other)), 6)


def _texts(value: str | list[str] | None, *, param: str) -> list[str]:
    if value is None:
        raise bad_request(f"`{param}` is needed.", param=param)
    return [value] if isinstance(value, str) else _limited(value, param=param)


def _limited(items: list[Item], *, param: str) -> list[Item]:
    if not 0 < len(items) <= MAX_PROMPTS:
        raise bad_request(f"`{param}` needs 1 to {MAX_PROMPTS} items.", param=param)
    return items


def _text_of(message: Message) -> str:
    if isinstance(message.content, str):
        return message.content
    return "".join(part.text or "" for part in message.content or ())


def _list_head(stamp: Stamp) -> dict[str, Any]:
    return {
        "id": stamp.id,
        "object": "list",
        "created": stamp.created,
        "model": stamp.model,
        "system_fingerprint": stamp.worker,
    }


def _usage(tokens: int) -> dict[str, Any]:
    return {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0, "prompt_tokens_details": None}
