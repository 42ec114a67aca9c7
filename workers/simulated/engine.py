"""What the HTTP side asks of an engine, scripted or modelled."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from workers.simulated.metrics import FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a request asks of the engine: ``choices`` answers of ``answer_tokens`` each (0: the prompt is only read).

    ``arrived`` is when the request's head had been read, on the monotonic clock. ``prompts`` are the token ids of each
    prompt, each for the same number of choices; none where nobody needs them. ``ttft_secs`` and ``token_secs`` are what
    the request itself says about times. ``rank`` is the engine that it asks for, None for any.
    """

    arrived: float
    prompt_tokens: int
    answer_tokens: int
    prompts: tuple[bytes, ...] = ()
    choices: int = 1
    finish: FinishReason = "stop"
    ttft_secs: float | None = None
    token_secs: float | None = None
    lora: str = ""
    cache_salt: str = ""
    rank: int | None = None


class Run(Protocol):
    """One request in an engine."""

    @property
    def cached_tokens(self) -> int | None:
        """Prompt tokens that were cached, once there is a first token; None where there is no prefix cache."""

    async def read_prompt(self) -> None:
        """Wait until the prompt has been read, where there is no answer."""

    async def produce(self, token: int) -> int:
        """Wait until the first ``token`` tokens are there; return how many may be shown, as many at least."""


class Engine(Protocol):
    """Admits requests. Everything runs on one event loop."""

    @property
    def in_flight(self) -> int:
        """Requests that were admitted and are not over."""

    def check(self, work: Work) -> None:
        """Raise ``ApiError`` for work that cannot be done."""

    def word(self, token: int) -> str:
        """The text of token number ``token`` of any answer."""

    def admit(self, work: Work) -> AbstractAsyncContextManager[Run]:
        """Hold a place for ``work``; leaving with an exception, a client's disconnect included, counts no success."""

    def clear_cache(self) -> None:
        """Forget the prefix cache, unless a request uses it."""

    def event_sources(self) -> Mapping[str, Any]:
        """Where the events of the prefix cache can be had, by rank."""

    def close(self) -> None:
        """Let go of what the operating system knows of."""
