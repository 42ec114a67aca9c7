"""Which paths carry a body that routing can read. The only list."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from extproc.api import (
    anthropic_messages,
    openai_chat,
    openai_completions,
    openai_embeddings,
    openai_responses,
    vllm_scoring,
    vllm_tokenize,
)
from extproc.api.body import RequestBody

DECODERS: Mapping[str, msgspec.json.Decoder[Any]] = MappingProxyType(
    {
        "/v1/chat/completions": openai_chat.decoder,
        "/v1/completions": openai_completions.decoder,
        "/v1/embeddings": openai_embeddings.decoder,
        "/v1/responses": openai_responses.decoder,
        "/v1/messages": anthropic_messages.decoder,
        "/tokenize": vllm_tokenize.decoder,
        "/v1/rerank": vllm_scoring.decoder,
        "/score": vllm_scoring.decoder,
        "/pooling": openai_embeddings.decoder,
    }
)


def decoder_for(method: str, path: str) -> msgspec.json.Decoder[RequestBody] | None:
    """The decoder of a request's body, or None when the request is routed without looking inside.

    ``path`` may carry a query string.
    """
    if method != "POST":
        return None
    return DECODERS.get(path) or DECODERS.get(path.partition("?")[0])
