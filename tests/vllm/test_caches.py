"""What the service takes for cached against what the engines report: turns, adapters, salts, flushes, crashes."""

import asyncio
import uuid

import pytest

from extproc.shm.worker_table import Trust
from tests.support.event_reader import EventReader
from tests.support.waiting import until
from tests.vllm.conversations import CONVERSATIONS, ENOUGH, Conversations, Outcome
from tests.vllm.gateway import (
    SETTLED_SECS,
    Gateway,
    more_samples,
    samples,
    trust_of,
    trusted,
)
from tests.vllm.servers import ADAPTER, BLOCK_TOKENS, VllmServer

pytestmark = pytest.mark.asyncio(loop_scope="session")

TURNS = 10
LOOKS = 20
"""At a cache that was emptied, each with a prompt of its own: asked once, it is cached again."""


def long_text() -> str:
    return f"[{uuid.uuid4()}] " + "What was computed once is kept for whoever asks again. " * 20


async def test_what_is_predicted_for_200_turns_is_what_engines_report(
    fresh: Gateway, servers: dict[str, VllmServer], readers: dict[str, EventReader]
) -> None:
    await trusted(fresh.service, "vllm-1", "vllm-2")
    for name, reader in readers.items():
        # So that the first batch is known, and from there all that were ever sent.
        await asyncio.to_thread(
            servers[name].post, "/v1/completions", {"model": "tiny", "prompt": [7], "max_tokens": 40}
        )
        await asyncio.to_thread(reader.wait_for_first)
    before = await samples(fresh.service)

    answers = await Conversations(seed=1).play(fresh, requests=CONVERSATIONS * TURNS, readers=readers)

    results = await more_samples(fresh.service, before, count=len(answers))
    assert results["equal"] >= ENOUGH * len(answers), results
    Outcome.of(answers).check()
    assert {answer.worker for answer in answers} == {"vllm-1", "vllm-2"}


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
    texts = [long_text() for _ in range(LOOKS)]
    for text in texts:
        await fresh.complete(text)
    held = await fresh.complete(texts[0])
    assert held.predicted_tokens == held.cached_tokens > 0
    for server in servers.values():
        await asyncio.to_thread(server.reset_prefix_cache)
        # The engine announces it with its next step.
        await asyncio.to_thread(server.post, "/v1/completions", {"model": "tiny", "prompt": [7], "max_tokens": 1})
    unseen = iter(texts)

    async def forgotten() -> bool:
        text = next(unseen, "")
        assert text, "the service goes on believing in what is gone"
        answer = await fresh.complete(text)
        assert answer.cached_tokens == 0
        return answer.predicted_tokens == 0

    await until(forgotten)
    Outcome.of(await Conversations(seed=2).play(fresh, requests=CONVERSATIONS * 3)).check()


async def test_the_index_follows_an_engine_that_is_killed_and_comes_back(
    fresh: Gateway, servers: dict[str, VllmServer]
) -> None:
    await trusted(fresh.service, *servers)
    text = long_text()
    killed = (await fresh.complete(text)).worker
    (left,) = servers.keys() - {killed}

    await asyncio.to_thread(servers[killed].kill)
    assert (await fresh.complete(text)).cached_tokens == 0, "the answer has another engine's cache"
    await until(lambda: _is_healthy(fresh, killed, expected=False), deadline_secs=SETTLED_SECS)
    assert (await fresh.complete(text)).worker == left
    assert await trust_of(fresh.service, left) is Trust.PRECISE

    await asyncio.to_thread(servers[left].reset_prefix_cache)
    servers[killed].start()
    await asyncio.to_thread(servers[killed].wait_healthy)
    await until(lambda: _is_healthy(fresh, killed, expected=True), deadline_secs=SETTLED_SECS)
    await trusted(fresh.service, *servers)
    before = await samples(fresh.service)

    async def known() -> bool:
        """Whether a prompt that only the restarted engine was asked is routed there, and found."""
        body = {"model": "tiny", "prompt": (asked := long_text()), "max_tokens": 1}
        await asyncio.to_thread(servers[killed].post, "/v1/completions", body)
        answer = await fresh.complete(asked)
        return answer.worker == killed and answer.predicted_tokens == answer.cached_tokens > 0

    await until(known, deadline_secs=SETTLED_SECS)
    answers = await Conversations(seed=3).play(fresh, requests=CONVERSATIONS * 3)

    Outcome.of(answers).check()
    results = await more_samples(fresh.service, before, count=len(answers))
    assert results["equal"] >= ENOUGH * len(answers), results


async def _is_healthy(gate: Gateway, worker: str, *, expected: bool) -> bool:
    (row,) = [one for one in await gate.service.workers() if one["id"] == worker]
    return bool(row["healthy"]) is expected
