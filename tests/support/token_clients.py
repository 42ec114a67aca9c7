"""Clients of a whole deployment that tokenizes, and the numbers of tokens that ``transformers`` gives."""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import aiohttp
from transformers import AutoTokenizer

from tests.support.deployment import Deployment

CHAT = "/v1/chat/completions"
TIMEOUT_SECS = 60.0
_DECISION = re.compile(
    r"worker=(?P<worker>[^;]+); policy=(?P<policy>\w+); reason=(?P<reason>\w+)"
    r"(; tokens=(?P<tokens>\d+); cache=(?P<cache>\w+))?"
)

Message = dict[str, Any]


class Reply(NamedTuple):
    """An answer. ``worker`` is empty where no router decided; ``tokens`` is None where the prompt was not tokenized."""

    status: int
    headers: dict[str, str]
    body: Any
    worker: str
    tokens: int | None
    cache: str | None

    @property
    def summary(self) -> tuple[int, int | None, str | None]:
        """Status, number of tokens, and what the cache knew."""
        return self.status, self.tokens, self.cache


class TokenClient:
    """Sends requests to one address."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Self]:
        """Talk to whatever serves at ``url`` until the end of the block."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECS)) as session:
            yield cls(session, url)

    async def post(self, path: str, **fields: Any) -> Reply:  # noqa: ANN401 - any body
        """Send ``fields`` as a JSON body."""
        async with self._session.post(f"{self._url}{path}", json=fields) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            body = await response.json(content_type=None)
        decided = _DECISION.fullmatch(headers.get("x-extproc-decision", ""))
        if decided is None:
            return Reply(response.status, headers, body, "", None, None)
        tokens = decided["tokens"]
        return Reply(
            response.status,
            headers,
            body,
            decided["worker"],
            None if tokens is None else int(tokens),
            decided["cache"],
        )

    async def chat(self, model: str, messages: Sequence[Any]) -> Reply:
        """Send a chat that is answered with one token."""
        return await self.post(CHAT, model=model, messages=list(messages), max_tokens=1)


class Reference:
    """The tokenizer of a model directory as ``transformers`` loads it at this moment."""

    def __init__(self, directory: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(directory)

    def chat(self, messages: Sequence[Message]) -> int:
        """The number of tokens of a chat that the model is to answer."""
        return len(self._tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=False))

    def chat_with_special(self, messages: Sequence[Message]) -> int:
        """The same where the tokenizer adds its special tokens to what the template wrote."""
        text = self._tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
        return self.text(str(text))

    def text(self, text: str) -> int:
        """The number of tokens of a text with the tokenizer's special tokens."""
        return len(self._tokenizer.encode(text))


async def served(deployed: Deployment, index: int) -> float:
    """Requests that a router was asked about so far."""
    return await deployed.service.metric("extproc_process_streams_total", role="router", index=str(index))


async def both_served(deployed: Deployment, before: list[float]) -> bool:
    """Whether each of two routers was asked since it had served ``before``."""
    return all([await served(deployed, index) > before[index] for index in (0, 1)])


async def both_ready(deployed: Deployment) -> bool:
    """Whether two routers are: a service takes requests from the first on."""
    return len(await deployed.service.pids("router")) == 2


def serving(*models: str) -> tuple[str, ...]:
    """Flags of a simulated worker that serves ``models``, quickly, and takes long prompts."""
    names = [flag for model in models for flag in ("--model", model)]
    return ("--ttft-secs", "0.001", "--token-secs", "0", "--max-tokens", "1", "--max-model-len", "10000000", *names)


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}
