"""How fast an engine computes prompts and tokens, learned from the differences between its readings."""

from collections import deque
from typing import Literal

from extproc.fleet.load.engine_load import EngineLoad

Lesson = Literal["first", "restarted", "idle", "implausible", "learned"]

MIN_PROMPT_TOKENS = 256
"""Prompts with fewer tokens to compute than this, on the mean, are bound by what a step costs without any."""

PREFILL_MEMORY_TOKENS = 65_536
DECODE_MEMORY_TOKENS = 4096
"""After so many tokens, what was learned before has half of its weight."""

SPAN_SECS = 5.0
"""How far back all the tokens are counted that an engine computed."""

PREFILL_BOUNDS = (1.0, 1e8)
DECODE_BOUNDS = (1e-6, 60.0)
"""Tokens per second, and seconds: what lies outside is not believed."""

_MONOTONIC = (
    "prefix_queries", "prefix_hits", "computed_tokens", "prefill_requests", "prefill_tokens", "decode_tokens",
    "queue_requests", "first_tokens",
)  # fmt: skip


class LearnedRates:
    """What the readings of one worker teach about its speed.

    Exponentially weighted means, weighted by tokens, so that an hour of silence forgets nothing and a burst is not
    outvoted by idle seconds. ``None`` until there was something to learn from.

    * **Prefill rate**: tokens computed over the time that took. Both ways to measure it err on the low side, so the
      greater counts. Tokens and times of finished requests: too low when requests share steps, as each has the whole
      time. All tokens computed in the last seconds, over those seconds and one prefill more, as the first of them may
      have begun before: too low when the engine was idle in between. Bursts of short prompts with pauses look slow to
      both.
    * **Decode step**: the time between two tokens of an answer as the engine saw it, steps that prefill included.

    A counter that falls tells that the engine has been started anew and its cache is empty. What was learned of its
    speed stays.
    """

    def __init__(self) -> None:
        self._last: EngineLoad | None = None
        self._computed: deque[tuple[float, float]] = deque()
        self._secs_per_prompt_token = _Mean(memory=PREFILL_MEMORY_TOKENS)
        self._decode_step_secs = _Mean(memory=DECODE_MEMORY_TOKENS)

    @property
    def prefill_tokens_per_sec(self) -> float | None:
        """Prompt tokens that the engine computes in a second."""
        secs = self._secs_per_prompt_token.value
        return None if secs is None else 1 / secs

    @property
    def decode_step_secs(self) -> float | None:
        """Seconds between two tokens of one answer."""
        return self._decode_step_secs.value

    def learn(self, load: EngineLoad, *, now: float) -> Lesson:
        """Take the next reading, ``now`` on a monotonic clock in seconds.

        Returns what came of it: ``first`` and ``restarted`` readings have nothing to be compared with, up to an
        ``idle`` one too little happened, and an ``implausible`` one says something out of bounds, which is left out.
        """
        last, self._last = self._last, load
        if last is None or _restarted(last, load):
            self._computed.clear()
            self._remember_computed(load, now=now)
            return "first" if last is None else "restarted"
        lessons = (self._learn_prefill(last, load, now=now), self._learn_decode(last, load))
        self._remember_computed(load, now=now)
        return max(lessons, key=_PRECEDENCE.index)

    def _remember_computed(self, load: EngineLoad, *, now: float) -> None:
        if load.computed_tokens is None:
            self._computed.clear()
            return
        self._computed.append((now, load.computed_tokens))
        # The oldest kept is the first within the span, or the last one if readings are rarer.
        while len(self._computed) > 1 and now - self._computed[0][0] >= SPAN_SECS:
            self._computed.popleft()

    def _learn_prefill(self, last: EngineLoad, load: EngineLoad, *, now: float) -> Lesson:
        requests = _difference(last, load, "prefill_requests")
        tokens = _difference(last, load, "prefill_tokens")
        if requests <= 0 or tokens < MIN_PROMPT_TOKENS * requests:
            return "idle"
        secs = _difference(last, load, "prefill_secs")
        if secs <= 0:
            return "implausible"
        rate = max(tokens / secs, self._rate_of_all(load, now=now, prefill_secs=secs / requests))
        # The mean is of seconds per token: weighted by tokens, that is all seconds over all tokens.
        return self._secs_per_prompt_token.take(
            1 / rate, weight=tokens, bounds=(1 / PREFILL_BOUNDS[1], 1 / PREFILL_BOUNDS[0])
        )

    def _rate_of_all(self, load: EngineLoad, *, now: float, prefill_secs: float) -> float:
        """Tokens per second over the last seconds, whatever requests they were for."""
        if not self._computed or load.computed_tokens is None:
            return 0.0
        since, computed = self._computed[0]
        elapsed = now - since
        return (load.computed_tokens - computed) / (elapsed + prefill_secs) if elapsed > 0 else 0.0

    def _learn_decode(self, last: EngineLoad, load: EngineLoad) -> Lesson:
        tokens = _difference(last, load, "decode_tokens")
        if tokens <= 0:
            return "idle"
        secs = _difference(last, load, "decode_secs")
        return self._decode_step_secs.take(secs / tokens, weight=tokens, bounds=DECODE_BOUNDS)


_PRECEDENCE: tuple[Lesson, ...] = ("idle", "learned", "implausible")


class _Mean:
    """A mean that forgets by weight: after ``memory`` more of it, what was there counts half."""

    def __init__(self, *, memory: float) -> None:
        self.value: float | None = None
        self._memory = memory

    def take(self, value: float, *, weight: float, bounds: tuple[float, float]) -> Lesson:
        low, high = bounds
        if not low <= value <= high:
            return "implausible"
        if self.value is None:
            self.value = value
        else:
            kept = 0.5 ** (weight / self._memory)
            self.value = kept * self.value + (1 - kept) * value
        return "learned"


def _restarted(last: EngineLoad, load: EngineLoad) -> bool:
    return any(_difference(last, load, name) < 0 for name in _MONOTONIC)


def _difference(last: EngineLoad, load: EngineLoad, name: str) -> float:
    """How much a counter has risen; 0 when one of the readings does not have it."""
    before, after = getattr(last, name), getattr(load, name)
    return 0.0 if before is None or after is None else after - before
