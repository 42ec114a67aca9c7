"""From a request's body to the engine and back to an answer, streamed or whole."""

import time
import uuid
from collections.abc import Mapping
from dataclasses import replace

from aiohttp import web

from workers.simulated.api.base import Answer, Pooled, Question, Stamp, TextApi
from workers.simulated.engine import Engine, Work
from workers.simulated.errors import bad_request, model_not_found
from workers.simulated.replies import Replies
from workers.simulated.settings import MAX_ANSWER_TOKENS, MAX_TOKEN_SECS, MAX_TTFT_SECS, Settings

MAX_TOKENS_OF_ALL_CHOICES = 1_000_000


class Generation:
    """Serves the model: every path that needs the engine, and those beside it."""

    def __init__(
        self, *, settings: Settings, engine: Engine, replies: Replies, worker: str, max_model_len: int
    ) -> None:
        self._settings = settings
        self._max_model_len = max_model_len
        self._engine = engine
        self._replies = replies
        self._worker = worker

    async def generate(
        self, request: web.BaseRequest, api: TextApi, body: bytes, *, arrived: float
    ) -> web.StreamResponse:
        """Answer with text. Raises ``ApiError``."""
        question = api.read(body)
        answer = self._plan(request, api, question)
        work = Work(
            arrived=arrived,
            prompts=question.prompts,
            prompt_tokens=answer.prompt_tokens,
            answer_tokens=answer.tokens,
            choices=answer.choices,
            ttft_secs=_number(request.headers, "x-sim-ttft-secs", MAX_TTFT_SECS),
            token_secs=_number(request.headers, "x-sim-token-secs", MAX_TOKEN_SECS),
            finish=answer.finish,
            lora=answer.stamp.model if answer.stamp.model in self._settings.loras else "",
            cache_salt=question.cache_salt,
            rank=self._rank(request),
        )
        self._engine.check(work)
        if question.stream:
            return await self._stream(request, api, answer, work)
        async with self._engine.admit(work) as run:
            await run.produce(answer.tokens)
        return self._replies.json(request, api.whole(replace(answer, cached_tokens=run.cached_tokens)))

    async def pool(self, request: web.BaseRequest, pooled: Pooled, *, arrived: float) -> web.StreamResponse:
        """Answer what needs no text. Raises ``ApiError``."""
        model = self._model(pooled.model)
        if pooled.needs_engine:
            self._check_length(pooled.prompt_tokens, 0)
            work = Work(
                arrived=arrived,
                prompt_tokens=pooled.prompt_tokens,
                answer_tokens=0,
                ttft_secs=_number(request.headers, "x-sim-ttft-secs", MAX_TTFT_SECS),
                rank=self._rank(request),
            )
            self._engine.check(work)
            async with self._engine.admit(work) as run:
                await run.read_prompt()
        return self._replies.json(request, pooled.word(self._stamp(request, "pool-", model)))

    async def _stream(self, request: web.BaseRequest, api: TextApi, answer: Answer, work: Work) -> web.StreamResponse:
        response = web.StreamResponse(headers=self._replies.headers(request, "text/event-stream; charset=utf-8"))
        await response.prepare(request)
        async with self._engine.admit(work) as run:
            shown = 0
            while shown < answer.tokens:
                there = await run.produce(shown + 1)
                pieces = [api.piece(answer, token) for token in range(shown + 1, there + 1)]
                if not shown:
                    pieces.insert(0, api.opening(answer))
                await response.write(b"".join(pieces))
                shown = there
        await response.write(api.closing(replace(answer, cached_tokens=run.cached_tokens)))
        await response.write_eof()
        return response

    def _plan(self, request: web.BaseRequest, api: TextApi, question: Question) -> Answer:
        """Decide on the answer's length: it ends by itself (`stop`) unless the request's limit cuts it (`length`)."""
        model = self._model(question.model)
        natural = _whole_number(request.headers, "x-sim-tokens", MAX_ANSWER_TOKENS)
        limit = question.limit
        if limit is not None and limit > MAX_ANSWER_TOKENS:
            raise bad_request(f"An answer may have at most {MAX_ANSWER_TOKENS} tokens.", param="max_tokens")
        if limit is not None and (natural is None or natural > limit):
            tokens, cut = limit, True
        else:
            tokens, cut = natural or self._settings.max_tokens, False
        if tokens * question.choices > MAX_TOKENS_OF_ALL_CHOICES:
            raise bad_request(f"All choices together may have at most {MAX_TOKENS_OF_ALL_CHOICES} tokens.", param="n")
        self._check_length(question.longest_prompt, tokens)
        return Answer(
            stamp=self._stamp(request, api.id_prefix, model),
            prompt_tokens=question.prompt_tokens,
            tokens=tokens,
            choices=question.choices,
            finish="length" if cut else "stop",
            include_usage=question.include_usage,
            word=self._engine.word,
        )

    def _rank(self, request: web.BaseRequest) -> int | None:
        """Return the data-parallel rank that a request asks for; what is not a number is ignored, as by vLLM."""
        try:
            rank = int(request.headers.get("X-data-parallel-rank", ""))
        except ValueError:
            return None
        ranks = self._settings.data_parallel_size
        if not 0 <= rank < ranks:
            raise bad_request(f"data_parallel_rank {rank} is out of range [0, {ranks}).")
        return rank

    def _model(self, asked: str | None) -> str:
        if not asked:
            return self._settings.models[0]
        if asked not in self._settings.models and asked not in self._settings.loras:
            raise model_not_found(asked)
        return asked

    def _check_length(self, prompt_tokens: int, answer_tokens: int) -> None:
        if prompt_tokens + answer_tokens > self._max_model_len:
            raise bad_request(
                f"This model's maximum context length is {self._max_model_len} tokens. However, you requested "
                f"{answer_tokens} output tokens and your prompt contains {prompt_tokens} input tokens."
            )

    def _stamp(self, request: web.BaseRequest, prefix: str, model: str) -> Stamp:
        request_id = request.headers.get("X-Request-Id") or uuid.uuid4().hex
        return Stamp(id=prefix + request_id, created=int(time.time()), model=model, worker=self._worker)


def _number(headers: Mapping[str, str], name: str, high: float) -> float | None:
    text = headers.get(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError as error:
        raise bad_request(f"The header {name} is not a number.") from error
    if not 0 <= value <= high:  # NaN compares false
        raise bad_request(f"The header {name} must lie between 0 and {high:g}.")
    return value


def _whole_number(headers: Mapping[str, str], name: str, high: int) -> int | None:
    text = headers.get(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= high:
        raise bad_request(f"The header {name} must be a whole number between 1 and {high}.")
    return int(text)
