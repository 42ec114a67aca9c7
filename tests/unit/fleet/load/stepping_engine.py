"""An engine in virtual time that schedules as vLLM does: step by step, chunked prefill, first come first served."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from extproc.fleet.load.engine_load import EngineLoad

MAX_BATCHED_TOKENS = 8192


@dataclass
class Prompt:
    """A request: when it comes, tokens to compute, tokens to answer."""

    at: float
    tokens: int
    answer: int
    left: int = 0
    started: float = 0.0
    first: float = 0.0
    last: float = 0.0
    made: int = 0


class SteppingEngine:
    """A step takes ``step_secs`` and ``token_secs`` for each prompt token in it, and makes a token of every answer."""

    def __init__(self, prompts: Iterable[Prompt], *, step_secs: float, token_secs: float) -> None:
        self._coming = deque(sorted((Prompt(p.at, p.tokens, p.answer, left=p.tokens) for p in prompts), key=_arrival))
        self._step_secs = step_secs
        self._token_secs = token_secs
        self._now = 0.0
        self._waiting: deque[Prompt] = deque()
        self._running: list[Prompt] = []
        self._counters = dict.fromkeys(
            ("computed_tokens", "prefill_requests", "prefill_secs", "prefill_tokens", "decode_tokens", "decode_secs"),
            0.0,
        )

    def load(self) -> EngineLoad:
        """What its metrics say now."""
        return msgspec.structs.replace(
            EngineLoad(running=len(self._running), waiting=len(self._waiting)), **self._counters
        )

    def run_until(self, end: float) -> None:
        """Step until ``end``, in seconds."""
        while self._now < end:
            while self._coming and self._coming[0].at <= self._now:
                self._waiting.append(self._coming.popleft())
            if self._running or self._waiting:
                self._step()
            else:
                self._now = min(end, self._coming[0].at) if self._coming else end

    def _step(self) -> None:
        decoding = [prompt for prompt in self._running if not prompt.left]
        room = MAX_BATCHED_TOKENS - len(decoding)
        prefilling = []
        for prompt in [*(prompt for prompt in self._running if prompt.left), *self._waiting]:
            if room <= 0:
                break
            if prompt not in self._running:
                self._running.append(self._waiting.popleft())
                prompt.started = self._now
            computed = min(room, prompt.left)
            prompt.left -= computed
            room -= computed
            prefilling.append((prompt, computed))
        self._now += self._step_secs + self._token_secs * sum(computed for _, computed in prefilling)
        for prompt in decoding:
            self._count(decode_tokens=1, decode_secs=self._now - prompt.last)
        done = [prompt for prompt, _ in prefilling if not prompt.left]
        for prompt in done:
            prompt.first = self._now
            self._count(computed_tokens=prompt.tokens)
        for prompt in decoding + done:
            prompt.last = self._now
            prompt.made += 1
            if prompt.made >= prompt.answer:
                self._finish(prompt)

    def _finish(self, prompt: Prompt) -> None:
        self._running.remove(prompt)
        self._count(prefill_requests=1, prefill_secs=prompt.first - prompt.started, prefill_tokens=prompt.tokens)

    def _count(self, **more: float) -> None:
        for name, value in more.items():
            self._counters[name] += value


def _arrival(prompt: Prompt) -> float:
    return prompt.at
