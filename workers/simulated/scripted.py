"""An engine with scripted times: admits requests and makes their tokens due when it was told to.

Cost model: a request waits for one of ``max_num_seqs`` places, its first token is due ``ttft_secs`` after it got one
and each further token ``token_secs`` after the one before, whatever else runs. Prompt length, batching and the prefix
cache cost nothing. The event loop's timers have a resolution of about a millisecond.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from workers.simulated.api.base import token_text
from workers.simulated.engine import Work
from workers.simulated.faults import Faults
from workers.simulated.metrics import EngineMetrics
from workers.simulated.settings import KV_CACHE_TOKENS, MAX_NUM_SEQS, Settings


class ScriptedRun:
    """One admitted request: its first token after ``ttft_secs``, each further one after ``token_secs``."""

    cached_tokens = None

    def __init__(
        self,
        *,
        work: Work,
        ttft_secs: float,
        token_secs: float,
        faults: Faults,
        metrics: EngineMetrics,
        arrived: float,
    ) -> None:
        self._work = work
        self._ttft_secs = ttft_secs
        self._token_secs = token_secs
        self._faults = faults
        self._metrics = metrics
        self._arrived = arrived
        self._started = time.perf_counter()
        self.queued_secs = self._started - arrived
        self._last_token = 0.0
        self.ttft_secs: float | None = None
        self.produced = 0

    async def read_prompt(self) -> None:
        """Wait until the prompt has been read. Gives way to other requests even when that takes no time."""
        await self._sleep_until(self._started + self._ttft_secs)
        self._last_token = time.perf_counter()
        self.ttft_secs = self._last_token - self._arrived
        self._metrics.prompt_tokens.inc(self._work.prompt_tokens)
        self._metrics.prompt_tokens_by_source["local_compute"].inc(self._work.prompt_tokens)
        self._metrics.prefix_cache_queries.inc(self._work.prompt_tokens)

    async def produce(self, token: int) -> int:
        """Wait until the first ``token`` tokens are there."""
        if not self.produced:
            await self._wait_out_stall(1)
            await self.read_prompt()
            self.produced = 1
        if token > self.produced:
            await self._wait_out_stall(token)
            # The schedule is absolute, so one token's lateness does not add to the next one's.
            await self._sleep_until(self._started + self._ttft_secs + (token - 1) * self._token_secs)
            self._count_gaps(token - self.produced)
            self.produced = token
        return self.produced

    def _count_gaps(self, tokens: int) -> None:
        now = time.perf_counter()
        self._metrics.token_gaps.observe((now - self._last_token) / tokens, count=tokens * self._work.choices)
        self._last_token = now

    async def _wait_out_stall(self, token: int) -> None:
        await self._faults.wait_while(lambda: self._faults.stalls_at(token))

    async def _sleep_until(self, due: float) -> None:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))


class ScriptedEngine:
    """Admits requests and counts them; everything runs on one event loop."""

    def __init__(self, *, settings: Settings, metrics: EngineMetrics, faults: Faults) -> None:
        self._settings = settings
        self._metrics = metrics
        self._faults = faults
        self._places = asyncio.Semaphore(settings.max_num_seqs or MAX_NUM_SEQS)
        self._cache_tokens = settings.kv_cache_tokens or KV_CACHE_TOKENS
        self._held_tokens = 0
        self.running = 0
        self.waiting = 0
        metrics.add_gauges(running=lambda: self.running, waiting=lambda: self.waiting, kv_usage=self._kv_usage)

    @property
    def in_flight(self) -> int:
        """Requests that run or wait."""
        return self.running + self.waiting

    def check(self, work: Work) -> None:
        """Take everything."""

    def word(self, token: int) -> str:
        """The text of token number ``token`` of any answer."""
        return token_text(token)

    def clear_cache(self) -> None:
        """There is no prefix cache."""

    def event_sources(self) -> Mapping[str, Any]:
        """There are no events."""
        return {}

    def close(self) -> None:
        """There is nothing to let go of."""

    @contextlib.asynccontextmanager
    async def admit(self, work: Work) -> AsyncIterator[ScriptedRun]:
        """Hold a place for ``work``; leaving with an exception, a client's disconnect included, counts no success."""
        arrived = time.perf_counter()
        self.waiting += 1
        try:
            await self._places.acquire()
        finally:
            self.waiting -= 1
        held = work.prompt_tokens + work.choices * work.answer_tokens
        self.running += 1
        self._held_tokens += held
        settings = self._settings
        run = ScriptedRun(
            work=work,
            ttft_secs=settings.ttft_secs if work.ttft_secs is None else work.ttft_secs,
            token_secs=settings.token_secs if work.token_secs is None else work.token_secs,
            faults=self._faults,
            metrics=self._metrics,
            arrived=arrived,
        )
        try:
            yield run
            self._count_success(work, run, latency_secs=time.perf_counter() - arrived)
        finally:
            self.running -= 1
            self._held_tokens -= held
            self._places.release()
            self._metrics.generation_tokens.inc(run.produced * work.choices)

    def _count_success(self, work: Work, run: ScriptedRun, *, latency_secs: float) -> None:
        metrics = self._metrics
        metrics.request_prompt.observe(work.prompt_tokens)
        metrics.request_generation.observe(work.answer_tokens * work.choices)
        metrics.queue_time.observe(run.queued_secs)
        metrics.latency.observe(latency_secs)
        if run.ttft_secs is not None:
            metrics.ttft.observe(run.ttft_secs)
            metrics.prefill_time.observe(run.ttft_secs - run.queued_secs)
            metrics.prefill_computed.observe(work.prompt_tokens)
        metrics.success[work.finish].inc()

    def _kv_usage(self) -> float:
        return min(1.0, self._held_tokens / self._cache_tokens)
