"""Tokenizes the prompts of requests in a router: at once where that is quick, else on a thread.

Whatever keeps a prompt from being tokenized, other than the client's own fault, leaves the request without tokens: it
is routed by what else is known, and counted under its reason.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from traceback import format_tb
from typing import TypeVar

from extproc.api.body import RequestBody
from extproc.config.tokens import TokensSettings
from extproc.errors import Refusal
from extproc.models.model import Model, TooManyPrompts, WholeKey
from extproc.models.shelf import ModelShelf
from extproc.models.tallies import ModelTallies
from extproc.telemetry.metrics import Metrics, TokenMetrics
from extproc.tokens.prompt_cache import Encoding
from extproc.tokens.prompt_tokens import PromptTokens

logger = logging.getLogger(__name__)

T = TypeVar("T")
Prompts = tuple[PromptTokens, ...]

LONG_BODY_BYTES = 96 << 10
"""A longer body is read on a thread from the start, as decoding and rendering it take their time too."""
HUGE_BODY_BYTES = 1 << 20
"""Even to look up what is known of a longer body takes too long elsewhere."""
INLINE_PROMPTS = 16
"""More prompts go to a thread, as each costs as much as some thousand bytes, however short it is."""
_FIRST_SECS_PER_BYTE = 20e-9
_LEARNED_FROM_BYTES = 1024
_LEARNING = 0.05


class PromptReader:
    """Reads prompts for one router; :meth:`close` ends its threads."""

    def __init__(
        self,
        *,
        shelf: ModelShelf,
        settings: TokensSettings,
        metrics: Metrics,
        token_metrics: TokenMetrics,
        rng: random.Random,
    ) -> None:
        self.shelf = shelf
        self._settings = settings
        self._fallbacks = metrics.fallbacks
        self._metrics = token_metrics
        self._rng = rng
        self._executor = ThreadPoolExecutor(settings.encode_threads, thread_name_prefix="encode")
        self._pending = 0
        self._secs_per_byte: dict[str, float] = {}
        self._tallies: dict[str, ModelTallies] = {}

    def read(self, body: RequestBody, name: str) -> "Prompts | asyncio.Future[Prompts]":
        """Return the prompts of a body for the model called ``name``, now or later; none where they cannot be known.

        Raises :class:`~extproc.errors.Refusal`, at once or through the future, when the prompt is at fault.
        """
        shelved = self.shelf.find(name)
        parts = None if shelved is None else body.prompt_parts()
        if shelved is None or parts is None:
            body.validate()
            return ()
        if shelved.model is None:
            return self._without("model_unusable")
        size = sum(map(len, parts))
        if size > self._settings.max_prompt_bytes:
            return self._without("prompt_too_long")
        job = _Job(shelved.model, shelved.adapter, body, parts, perf_counter())
        try:
            return self._read(job, size)
        except Refusal:
            raise
        except Exception as error:  # noqa: BLE001 - the request goes on
            return self._failed(error)

    def flush(self) -> None:
        """Write what was counted to the metrics."""
        for tallies in self._tallies.values():
            tallies.flush()
        self._metrics.tokenize_seconds.flush()

    def close(self) -> None:
        """End the threads; what waits for one is not read any more."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _read(self, job: "_Job", size: int) -> "Prompts | asyncio.Future[Prompts]":
        if size > HUGE_BODY_BYTES:
            return self._later(job)
        if job.recall():
            return self._finished(job)
        if size > LONG_BODY_BYTES or job.brings_code():
            return self._later(job)
        try:
            job.prepare(min(INLINE_PROMPTS, self._settings.max_prompts))
        except TooManyPrompts:
            return self._later(job)
        if job.bytes_to_encode() * self._secs_per_byte.get(job.model.spec.name, _FIRST_SECS_PER_BYTE) > (
            self._settings.inline_secs
        ):
            return self._later(job)
        job.complete(self._settings.max_prompts)
        return self._finished(job)

    def _later(self, job: "_Job") -> "Prompts | asyncio.Future[Prompts]":
        """Complete a job on a thread."""
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[Prompts] = loop.create_future()

        def settle(done: "asyncio.Future[None]") -> None:
            error = done.exception() if not done.cancelled() else asyncio.CancelledError()
            if outcome.done():
                return
            if error is None:
                outcome.set_result(self._finished(job))
            elif isinstance(error, Refusal):
                outcome.set_exception(error)
            else:
                outcome.set_result(self._failed(error))

        def give_up() -> None:
            if not outcome.done():
                outcome.set_result(self._without("encode_timeout"))

        def complete() -> None:
            # Of what had to wait for a thread, nobody may want it any more: no other prompt shall wait for that.
            if not outcome.done():
                job.complete(self._settings.max_prompts)
                job.cut()

        work = self._on_thread(complete)
        if work is None:
            return self._without("encode_queue_full")
        patience = loop.call_later(self._settings.max_wait_secs, give_up)
        outcome.add_done_callback(lambda _done: patience.cancel())
        work.add_done_callback(settle)
        return outcome

    def _on_thread(self, work: Callable[[], T]) -> "asyncio.Future[T] | None":
        """Start work on a thread, or return None when too much waits for one."""
        if self._pending >= self._settings.max_pending_encodings:
            return None
        self._pending += 1
        future = asyncio.get_running_loop().run_in_executor(self._executor, work)
        future.add_done_callback(self._thread_is_free)
        return future

    def _thread_is_free(self, _done: "asyncio.Future[T]") -> None:
        self._pending -= 1

    def _finished(self, job: "_Job") -> Prompts:
        """Count a job that is complete and return its prompts."""
        if not job.results:
            return self._without("prompt_unknown")
        name = job.model.spec.name
        if job.encoded_bytes >= _LEARNED_FROM_BYTES:
            rate = job.encode_secs / job.encoded_bytes
            before = self._secs_per_byte.get(name, rate)
            self._secs_per_byte[name] = before + _LEARNING * (rate - before)
        tallies = self._tallies.get(name)
        if tallies is None:
            # Bounded by the models that the configuration ever named.
            tallies = self._tallies[name] = ModelTallies(self._metrics, name)
        put_together = False
        for tokens in job.results:
            tallies.count(tokens)
            put_together |= tokens.cache == "level_1"
        if put_together and self._rng.random() < self._settings.verify_share:
            self._verify(job)
        self._metrics.tokenize_seconds.observe(perf_counter() - job.started)
        return job.cut()

    def _verify(self, job: "_Job") -> None:
        """Encode the prompts of a job without the cache, in the background, and compare."""

        def settle(done: "asyncio.Future[bool]") -> None:
            if done.cancelled() or done.exception() is not None:
                return
            result = "ok" if done.result() else "mismatch"
            self._metrics.prefix_verifications.labels(job.model.spec.name, result).inc()
            if not done.result():
                self.shelf.revoke(job.model)

        work = self._on_thread(job.is_verified)
        if work is not None:
            work.add_done_callback(settle)

    def _failed(self, error: BaseException) -> Prompts:
        if isinstance(error, TooManyPrompts):
            return self._without("too_many_prompts")
        # The message of an exception may quote what it failed on, which is the prompt.
        logger.error("Tokenizing failed: %s\n%s", type(error).__name__, "".join(format_tb(error.__traceback__)))
        return self._without("tokenize_failed")

    def _without(self, reason: str) -> Prompts:
        self._fallbacks.labels(reason).inc()
        return ()


class _Job:
    """The prompts of one request on their way; what a thread does to it, it does alone."""

    __slots__ = (
        "adapter", "answer", "body", "encode_secs", "encoded_bytes", "key", "model", "parts", "prompts", "results",
        "started",
    )  # fmt: skip

    def __init__(self, model: Model, adapter: str, body: RequestBody, parts: tuple[bytes, ...], started: float) -> None:
        self.model = model
        self.adapter = adapter
        self.body = body
        self.parts = parts
        self.key: WholeKey | None = None
        self.started = started
        self.prompts: list[Encoding | PromptTokens] | None = None
        self.results: list[PromptTokens] = []
        self.answer: Prompts | None = None
        self.encoded_bytes = 0
        self.encode_secs = 0.0

    def recall(self) -> bool:
        """Look up the prompt as a whole; whether it was known."""
        self.key = self.model.whole_key(self.body, self.adapter, self.parts)
        known = None if self.key is None else self.model.recall(self.key)
        if known is None:
            return False
        self.results.append(known)
        return True

    def prepare(self, most: int) -> None:
        """Decode, render, and look up what is known; raises :class:`TooManyPrompts`."""
        self.prompts = self.model.prepare(self.body, self.adapter, self.key, most=most)

    def brings_code(self) -> bool:
        """Whether the request brings a template, which is a program and may run for ever, and is allowed to."""
        return self.model.spec.trust_request_chat_template and self.body.chat_template is not None

    def bytes_to_encode(self) -> int:
        """Return the size of what is not known, in characters."""
        return sum([len(prompt.rest) for prompt in self.prompts or () if isinstance(prompt, Encoding)])

    def complete(self, max_prompts: int) -> None:
        """Encode what is not known and put the prompts together; raises :class:`TooManyPrompts`."""
        if self.prompts is None:
            if self.key is None and self.recall():
                return
            self.prepare(max_prompts)
        for prompt in self.prompts or ():
            if isinstance(prompt, Encoding):
                started = perf_counter()
                ids = prompt.encode()
                self.encode_secs += perf_counter() - started
                self.encoded_bytes += len(prompt.rest)
                self.results.append(prompt.finish(ids))
            else:
                self.results.append(prompt)

    def cut(self) -> Prompts:
        """Return the prompts, of the length that the request wants."""
        if self.answer is None:
            self.answer = tuple([self.model.truncated(tokens, self.body) for tokens in self.results])
        return self.answer

    def is_verified(self) -> bool:
        """Whether every prompt has the ids that its whole text gives."""
        pairs = zip(self.prompts or (), self.results, strict=True)
        return all(prompt.matches_whole(tokens) for prompt, tokens in pairs if isinstance(prompt, Encoding))
