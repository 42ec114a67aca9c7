"""What the service takes for cached against what the engines report: turns, adapters, salts, flushes, crashes."""

import asyncio
import random
import uuid
from collections.abc import Sequence

import pytest

from extproc.shm.worker_table import Trust
from tests.support.waiting import until
from tests.vllm.gateway import (
    ADAPTER,
    BLOCK_TOKENS,
    SETTLED_SECS,
    Answer,
    Gateway,
    more_samples,
    samples,
    trust_of,
    trusted,
)
from tests.vllm.servers import VllmServer

pytestmark = pytest.mark.asyncio(loop_scope="session")

CONVERSATIONS = 20
TURNS = 10
ENOUGH = 0.99
WORDS = ("sea", "river", "count", "return", "file", "lines", "engine", "cache", "the", "of", "and", "while")


class Conversations:
    """Several that take turns; each answer becomes part of what is asked next."""

    def __init__(self, *, seed: int) -> None:
        self._random = random.Random(seed)
        systems = [self._text(150) for _ in range(4)]
        self._messages = [
            [{"role": "system", "content": systems[number % len(systems)]}] for number in range(CONVERSATIONS)
        ]

    async def play(self, gate: Gateway, *, requests: int) -> list[Answer]:
        """Ask one after the other."""
        answers = []
        for number in range(requests):
            messages = self._messages[number % CONVERSATIONS]
            messages.append({"role": "user", "content": self._text(self._random.choice((5, 30, 90)))})
            answer = await gate.chat(messages, max_tokens=self._random.choice((1, 20, 50)))
            messages.append({"role": "assistant", "content": answer.body["choices"][0]["message"]["content"]})
            answers.append(answer)
        return answers

    def _text(self, words: int) -> str:
        return f"{uuid.UUID(int=self._random.getrandbits(128))} " + " ".join(self._random.choices(WORDS, k=words))


def agreeing(answers: Sequence[Answer]) -> float:
    """The share of answers whose engine found as much as was predicted."""
    return sum(one.predicted_tokens == one.cached_tokens for one in answers) / len(answers)


def long_text() -> str:
    return f"[{uuid.uuid4()}] " + "What was computed once is kept for whoever asks again. " * 20


async def test_what_is_predicted_for_200_turns_is_what_engines_report(fresh: Gateway) -> None:
    await trusted(fresh.service, "vllm-1", "vllm-2")
    before = await samples(fresh.service)

    answers = await Conversations(seed=1).play(fresh, requests=CONVERSATIONS * TURNS)

    results = await more_samples(fresh.service, before, count=len(answers))
    assert results["equal"] >= ENOUGH * len(answers), results
    assert agreeing(answers) >= ENOUGH
    assert {answer.worker for answer in answers} == {"vllm-1", "vllm-2"}
    cached, asked = (sum(values) for values in zip(*((a.cached_tokens, a.prompt_tokens) for a in answers), strict=True))
    assert cached > asked / 3, "a prediction of nothing would be as good"


async def test_an_adapter_has_a_cache_of_its_own(fresh: Gateway) -> None:
    text = long_text()
    base = await fresh.complete(text)
    most = (base.prompt_tokens - 1) // BLOCK_TOKENS * BLOCK_TOKENS

    for model in ("tiny", ADAPTER):
        first = await fresh.complete(text, model=model)
        again = await fresh.complete(text, model=model)
        held = [0 if model == ADAPTER else most, most]
        assert [first.cached_tokens, again.cached_tokens] == held
        assert [first.predicted_tokens, again.predicted_tokens] == held


async def test_a_salt_has_a_cache_of_its_own(fresh: Gateway) -> None:
    text = long_text()
    base = await fresh.complete(text)
    most = (base.prompt_tokens - 1) // BLOCK_TOKENS * BLOCK_TOKENS

    for salt in ("tenant-7", "tenant-8", ADAPTER):
        first, again = [await fresh.complete(text, cache_salt=salt) for _ in range(2)]
        assert [first.cached_tokens, again.cached_tokens] == [0, most]
        assert [first.predicted_tokens, again.predicted_tokens] == [0, most]


async def test_a_flushed_cache_is_seen_as_empty(fresh: Gateway, servers: dict[str, VllmServer]) -> None:
    await trusted(fresh.service, *servers)
    text = long_text()
    holder = (await fresh.complete(text)).worker
    assert (await fresh.complete(text)).worker == holder
    for server in servers.values():
        await asyncio.to_thread(server.reset_prefix_cache)

    async def forgotten() -> bool:
        """An engine announces that its cache is empty with its next step, so every look is a request."""
        for server in servers.values():
            await asyncio.to_thread(server.post, "/v1/completions", {"model": "tiny", "prompt": [7], "max_tokens": 1})
        answer = await fresh.complete(f"{text} {uuid.uuid4()}")
        predicted, cached = answer.predicted_tokens, answer.cached_tokens
        return predicted == cached

    await until(forgotten)
    assert agreeing(await Conversations(seed=2).play(fresh, requests=CONVERSATIONS * 2)) >= ENOUGH


async def test_the_index_follows_an_engine_that_is_killed_and_comes_back(
    fresh: Gateway, servers: dict[str, VllmServer]
) -> None:
    await trusted(fresh.service, *servers)
    text = long_text()
    killed = (await fresh.complete(text)).worker
    (left,) = servers.keys() - {killed}

    await asyncio.to_thread(servers[killed].kill)
    elsewhere = await fresh.complete(text)
    assert elsewhere.worker == left
    assert elsewhere.cached_tokens == 0
    await until(lambda: _is_healthy(fresh, killed, expected=False), deadline_secs=SETTLED_SECS)
    assert await trust_of(fresh.service, left) is Trust.PRECISE

    await asyncio.to_thread(servers[left].reset_prefix_cache)
    servers[killed].start()
    await asyncio.to_thread(servers[killed].wait_healthy)
    await until(lambda: _is_healthy(fresh, killed, expected=True), deadline_secs=SETTLED_SECS)
    await trusted(fresh.service, *servers)
    before = await samples(fresh.service)

    answers = await Conversations(seed=3).play(fresh, requests=CONVERSATIONS * 3)

    assert {answer.worker for answer in answers} == set(servers)
    assert agreeing(answers) >= ENOUGH
    results = await more_samples(fresh.service, before, count=len(answers))
    assert results["equal"] >= ENOUGH * len(answers), results


async def _is_healthy(gate: Gateway, worker: str, *, expected: bool) -> bool:
    (row,) = [one for one in await gate.service.workers() if one["id"] == worker]
    return bool(row["healthy"]) is expected
