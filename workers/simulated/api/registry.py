"""Which path speaks which API: the only list."""

import functools
from collections.abc import Callable, Mapping

from workers.simulated.api import pooling
from workers.simulated.api.base import Pooled, TextApi
from workers.simulated.api.chat import ChatCompletions
from workers.simulated.api.completions import Completions
from workers.simulated.api.messages import Messages
from workers.simulated.api.responses import Responses


def text_apis() -> Mapping[str, TextApi]:
    """Paths that answer with generated text."""
    return {
        "/v1/chat/completions": ChatCompletions(),
        "/v1/completions": Completions(),
        "/v1/messages": Messages(),
        "/v1/responses": Responses(),
    }


def pooled_apis(*, max_model_len: int) -> Mapping[str, Callable[[bytes], Pooled]]:
    """Paths that read a prompt and generate nothing."""
    return {
        "/v1/embeddings": pooling.embeddings,
        "/pooling": pooling.pooling,
        "/score": pooling.score,
        "/v1/score": pooling.score,
        "/rerank": pooling.rerank,
        "/v1/rerank": pooling.rerank,
        "/v2/rerank": pooling.rerank,
        "/tokenize": functools.partial(pooling.tokenize, max_model_len=max_model_len),
    }
