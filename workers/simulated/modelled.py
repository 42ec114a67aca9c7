"""An engine that follows the model of ``workers.engine`` in real time.

The model says when each token is there. Writing them to clients may be late and is done in pieces, which changes
nothing for the model.
"""

import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

from workers.engine.device import Device
from workers.engine.engine import Engine
from workers.engine.events import CacheEvent
from workers.engine.frontend import Frontend
from workers.engine.profile import Profile
from workers.engine.request import Request
from workers.engine.state import Counters
from workers.simulated.api.base import BYTES_PER_TOKEN, aligned_ids, aligned_text
from workers.simulated.driver import Driver
from workers.simulated.engine import Work
from workers.simulated.errors import bad_request
from workers.simulated.faults import Faults
from workers.simulated.hashing import block_hashes, root_hash
from workers.simulated.metrics import EngineMetrics, FinishReason, LoraInfo
from workers.simulated.modelled_run import ModelledRun

_EMPTY_PROMPT = bytes(BYTES_PER_TOKEN)


class EventPublisher(Protocol):
    """Takes what happens to a cache."""

    source: Mapping[str, Any]
    """Where the events can be had."""

    def publish(self, events: Sequence[CacheEvent], *, now: float) -> None:
        """Send one batch ``now``, in seconds since 1970."""

    def close(self) -> None:
        """Close the sockets."""


class ModelledEngine:
    """Admits requests to the model of one engine and shows what it tells.

    Engines that share ``device`` slow each other down, and those that share ``frontend`` wait for one API server;
    ``publisher`` gets the events of the cache.
    """

    def __init__(
        self,
        *,
        profile: Profile,
        device: Device,
        frontend: Frontend,
        metrics: EngineMetrics,
        faults: Faults,
        stream_interval_secs: float,
        lora_info: LoraInfo | None,
        publisher: EventPublisher | None,
    ) -> None:
        self._profile = profile
        self._metrics = metrics
        self._faults = faults
        self._stream_interval_secs = stream_interval_secs
        self._publisher = publisher
        self._engine = engine = Engine(profile, device=device, keep_events=publisher is not None)
        self._driver = Driver(
            engine=engine,
            frontend=frontend,
            clock=time.monotonic,
            on_events=self._publish,
            on_step=self._on_step,
        )
        self._told = Counters()
        self._scraped = Counters()
        self._lora_info = lora_info
        self.in_flight = 0
        metrics.before_scrape(self._count)
        metrics.add_gauges(
            running=lambda: engine.shown.running,
            waiting=lambda: engine.shown.waiting,
            kv_usage=lambda: engine.shown.kv_usage,
        )

    def check(self, work: Work) -> None:
        """Refuse what does not fit the cache, and times that a request sets for itself."""
        longest = max(map(len, work.prompts)) // BYTES_PER_TOKEN if work.prompts else work.prompt_tokens
        if max(longest, 1) + work.answer_tokens > self._profile.num_blocks * self._profile.block_size:
            raise bad_request("The prompt and its answer do not fit in the key-value cache.")
        if work.ttft_secs is not None or work.token_secs is not None:
            raise bad_request("x-sim-ttft-secs and x-sim-token-secs mean nothing to a worker with a profile.")

    def word(self, token: int) -> str:
        """The text of token number ``token`` of any answer."""
        return aligned_text(token)

    @contextlib.asynccontextmanager
    async def admit(self, work: Work) -> AsyncIterator[ModelledRun]:
        """Send ``work`` to the engine; what is not finished at the end is aborted."""
        run = ModelledRun(
            driver=self._driver,
            engine=self._engine,
            faults=self._faults,
            interval_secs=self._stream_interval_secs,
        )
        self._driver.catch_up()
        self._submit(work, run)
        self.in_flight += 1
        try:
            yield run
        finally:
            self.in_flight -= 1
            run.abandon()

    def clear_cache(self) -> None:
        """Forget the prefix cache, unless a request uses it."""
        self._driver.catch_up()
        self._engine.clear_cache()

    def event_sources(self) -> Mapping[str, Any]:
        """Where the events of the prefix cache can be had, by rank; it knows of its own only."""
        return {} if self._publisher is None else {"0": self._publisher.source}

    def close(self) -> None:
        """Stop the model and close its sockets."""
        self._driver.close()
        if self._publisher is not None:
            self._publisher.close()

    def _submit(self, work: Work, run: ModelledRun) -> None:
        # What reading the request takes here is part of what the model's API server takes for it.
        now = work.arrived
        root = root_hash(lora=work.lora, cache_salt=work.cache_salt)
        if not work.prompts:
            self._submit_one(work, run, now, tokens=b"", hashes=(), prompt_tokens=max(work.prompt_tokens, 1))
            return
        for prompt in work.prompts:
            ids = (prompt or _EMPTY_PROMPT) + aligned_ids(work.answer_tokens)
            hashes = block_hashes(ids, block_size=self._profile.block_size, root=root)
            for choice in range(work.choices // len(work.prompts)):
                prompt_tokens = max(len(prompt) // BYTES_PER_TOKEN, 1)
                self._submit_one(
                    work, run, now, tokens=ids, hashes=hashes, prompt_tokens=prompt_tokens, first=choice == 0
                )

    def _submit_one(
        self,
        work: Work,
        run: ModelledRun,
        now: float,
        *,
        tokens: bytes,
        hashes: tuple[int, ...],
        prompt_tokens: int,
        first: bool = True,
    ) -> None:
        def on_first(at: float) -> None:
            self._metrics.ttft.observe(at - now)
            run.had_first()

        def on_end(at: float) -> None:
            self._observe(request, work.finish, latency_secs=at - now)
            run.had_last()

        request = Request(
            prompt_tokens=prompt_tokens,
            answer_tokens=work.answer_tokens,
            hashes=hashes,
            on_first=on_first,
            on_end=on_end,
            lora=work.lora,
            tokens=memoryview(tokens).cast("I"),
            cache_salt=work.cache_salt,
        )
        run.take(request, first_of_prompt=first)
        self._driver.submit(request, now)

    def _observe(self, request: Request, finish: FinishReason, *, latency_secs: float) -> None:
        metrics = self._metrics
        metrics.request_prompt.observe(request.prompt_tokens)
        metrics.request_generation.observe(request.answer_tokens)
        metrics.queue_time.observe(request.scheduled_at - request.arrived_at)
        metrics.prefill_time.observe(request.first_token_at - request.scheduled_at)
        metrics.prefill_computed.observe(request.prompt_tokens - request.cached_tokens)
        metrics.latency.observe(latency_secs)
        metrics.success[finish].inc()

    def _on_step(self) -> None:
        counters, told = self._engine.shown.counters, self._told
        tokens = counters.decode_tokens - told.decode_tokens
        if tokens:
            self._metrics.token_gaps.observe((counters.decode_secs - told.decode_secs) / tokens, count=tokens)
        self._told = counters
        if self._lora_info is not None:
            self._lora_info.show(*self._engine.loras, now=time.time())

    def _count(self) -> None:
        """Bring the counters up to what the engine has told."""
        self._driver.catch_up()
        new, old, metrics = self._engine.shown.counters, self._scraped, self._metrics
        prompt_tokens = new.prompt_tokens - old.prompt_tokens
        computed = new.computed_tokens - old.computed_tokens
        metrics.prompt_tokens.inc(prompt_tokens)
        metrics.prompt_tokens_by_source["local_compute"].inc(computed)
        metrics.prompt_tokens_by_source["local_cache_hit"].inc(prompt_tokens - computed)
        metrics.generation_tokens.inc(new.generated_tokens - old.generated_tokens)
        metrics.prefix_cache_queries.inc(new.prefix_queries - old.prefix_queries)
        metrics.prefix_cache_hits.inc(new.prefix_hits - old.prefix_hits)
        metrics.preemptions.inc(new.preemptions - old.preemptions)
        self._scraped = new

    def _publish(self, events: list[CacheEvent]) -> None:
        if self._publisher is not None:
            self._publisher.publish(events, now=time.time())
