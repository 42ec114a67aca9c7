"""Predicted and reported cached tokens are compared over the real Envoy, and answers are what they would be anyway."""

import os
import random
import re
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
import pytest_asyncio

from tests.support.deployment import Deployment, data_plane, deployment, processing_mode
from tests.support.envoy import EnvoyProcess
from tests.support.models import make_model
from tests.support.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

MODEL = "qwen"
BLOCK = 16
SENDS = {"request_header_mode": "SEND", "response_header_mode": "SEND", "response_trailer_mode": "SEND"}
MODES: Mapping[str, Mapping[str, str] | None] = {
    "ours": None,
    "buffered_both": {**SENDS, "request_body_mode": "BUFFERED", "response_body_mode": "BUFFERED"},
    "streamed_response": {**SENDS, "request_body_mode": "BUFFERED", "response_body_mode": "STREAMED"},
    "full_duplex": {
        **SENDS,
        "request_body_mode": "FULL_DUPLEX_STREAMED",
        "request_trailer_mode": "SEND",
        "response_body_mode": "FULL_DUPLEX_STREAMED",
    },
}
KEEPS_BODIES = {
    "override_not_allowed": {**SENDS, "request_body_mode": "BUFFERED"},
    "pipelined": {**SENDS, "request_body_mode": "PIPELINED"},
    "full_duplex_request": {
        **SENDS,
        "request_body_mode": "FULL_DUPLEX_STREAMED",
        "request_trailer_mode": "SEND",
    },
}
NOT_COMPARABLE = re.compile(rb'"(id|created)": ?("[^"]*"|\d+)')


class Stage(NamedTuple):
    """A deployment with one worker whose engine has a prefix cache."""

    deployed: Deployment
    client: aiohttp.ClientSession

    async def ask(self, url: str, body: Mapping[str, Any]) -> bytes:
        """The bytes of a good answer, but for what differs from one answer to the next."""
        async with self.client.post(f"{url}/v1/completions", json=body) as response:
            content = await response.read()
            assert response.status == 200, content
        return NOT_COMPARABLE.sub(b"", content)

    async def samples(self) -> dict[str, float]:
        """How many samples had each result so far."""
        name = "extproc_cached_tokens_samples_total"
        results = ("equal", "over", "under", "absent", "moved")
        counts = {result: await self.deployed.service.metric(name, worker="w0", result=result) for result in results}
        return {result: count for result, count in counts.items() if count}

    async def tokens(self, kind: str) -> float:
        return await self.deployed.service.metric("extproc_cached_tokens_total", worker="w0", kind=kind)


@asynccontextmanager
async def stage(directory: Path, *, sample_share: float) -> AsyncIterator[Stage]:
    model = make_model(directory / MODEL, MODEL)
    config = {
        "models": [{"name": MODEL, "source": str(model), "block_size": BLOCK}],
        "routing": {"policy": "cache_aware"},
        "kv_events": {"sample_share": sample_share},
    }
    flags = ("--profile", "h100-1b", "--block-size", str(BLOCK), "--model", MODEL)
    async with (
        deployment(directory, workers=1, config=config, models=(MODEL,), worker_flags=flags) as deployed,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as client,
    ):
        yield Stage(deployed, client)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def sampling(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with stage(tmp_path_factory.mktemp("calibration"), sample_share=1.0) as running:
        yield running


@asynccontextmanager
async def in_mode(running: Stage, modes: Mapping[str, str] | None) -> AsyncIterator[EnvoyProcess]:
    if modes is None:
        yield running.deployed.envoy
    else:
        async with data_plane(running.deployed.service, edit=processing_mode(**modes)) as envoy:
            yield envoy


def prompt(seed: str, tokens: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(1000) for _ in range(tokens)]


def request(ids: list[int], *, stream: bool, include_usage: bool = True) -> dict[str, Any]:
    body: dict[str, Any] = {"model": MODEL, "prompt": ids, "max_tokens": 3, "stream": stream}
    if stream and include_usage:
        body["stream_options"] = {"include_usage": True}
    return body


@pytest.mark.parametrize("stream", [False, True], ids=["json", "events"])
@pytest.mark.parametrize("mode", MODES)
async def test_what_is_predicted_is_what_is_reported_and_the_answer_stays_as_it_is(
    sampling: Stage, mode: str, stream: bool
) -> None:
    before, tokens = await sampling.samples(), [await sampling.tokens(kind) for kind in ("predicted", "reported")]
    # 25 whole blocks and a part of one; and of 20 whole blocks an engine computes the last one again.
    bodies = [request(prompt(f"{mode} {stream} {size}", size), stream=stream) for size in (25 * BLOCK + 5, 20 * BLOCK)]
    async with in_mode(sampling, MODES[mode]) as envoy:
        for body in bodies:
            await sampling.ask(envoy.url, body)
            again = await sampling.ask(envoy.url, body)
            assert again == await sampling.ask(sampling.deployed.workers[0].url, body)

    async def counted() -> bool:
        return sum((await sampling.samples()).values()) == sum(before.values()) + 4

    await until(counted)
    assert await sampling.samples() == {**before, "equal": before.get("equal", 0) + 4}
    cached = (25 + 19) * BLOCK
    assert [await sampling.tokens(kind) for kind in ("predicted", "reported")] == [was + cached for was in tokens]


@pytest.mark.parametrize("mode", KEEPS_BODIES)
async def test_a_data_plane_that_keeps_the_body_to_itself_is_counted_and_not_disturbed(
    sampling: Stage, mode: str
) -> None:
    before = await sampling.samples()
    body = request(prompt(mode, 100), stream=False)
    async with in_mode(sampling, KEEPS_BODIES[mode]) as envoy:
        await sampling.ask(envoy.url, body)
        again = await sampling.ask(envoy.url, body)
    assert again == await sampling.ask(sampling.deployed.workers[0].url, body)

    async def counted() -> bool:
        return await sampling.samples() == {**before, "absent": before.get("absent", 0) + 2}

    await until(counted)


async def test_a_stream_that_says_nothing_of_its_usage_is_counted(sampling: Stage) -> None:
    before = await sampling.samples()
    body = request(prompt("no usage", 100), stream=True, include_usage=False)
    assert b"usage" not in await sampling.ask(sampling.deployed.envoy.url, body)

    async def counted() -> bool:
        return await sampling.samples() == {**before, "absent": before.get("absent", 0) + 1}

    await until(counted)


async def test_a_long_answer_streams_on_while_it_is_read(sampling: Stage) -> None:
    body = {**request(prompt("long", 40), stream=True), "max_tokens": 100}
    async with sampling.client.post(f"{sampling.deployed.envoy.url}/v1/completions", json=body) as response:
        first = await response.content.readline()
        assert first.startswith(b"data: ")
        (worker,) = await sampling.deployed.service.workers()
        assert worker["in_flight"] == 1, "it is counted for as long as it lasts"
        rest = await response.read()
    assert rest.rstrip().endswith(b"data: [DONE]")

    async def given_back() -> bool:
        return not any(worker["in_flight"] for worker in await sampling.deployed.service.workers())

    await until(given_back)


@pytest.mark.parametrize("how", ["replaced", "killed"])
async def test_an_answer_that_is_read_outlives_its_router(sampling: Stage, how: str) -> None:
    body = {**request(prompt(how, 40), stream=True), "max_tokens": 400}
    url = f"{sampling.deployed.envoy.url}/v1/completions"
    service = sampling.deployed.service
    before = await service.pids("router")
    async with sampling.client.post(url, json=body) as response:
        begun = await response.content.readline()
        if how == "replaced":
            service.signal(signal.SIGHUP)
        else:
            for pid in before:
                os.kill(pid, signal.SIGKILL)
        rest = await response.read()

    async def all_new() -> bool:
        pids = await service.pids("router")
        return len(pids) == len(before) and not set(pids) & set(before)

    await until(all_new)
    direct = await sampling.ask(sampling.deployed.workers[0].url, body)
    cached = re.compile(rb'"cached_tokens":\d+')
    assert cached.sub(b"", NOT_COMPARABLE.sub(b"", begun + rest)) == cached.sub(b"", direct)


async def test_without_samples_envoy_is_asked_for_no_body_more(tmp_path: Path) -> None:
    """Three messages: request headers, request body, response headers."""
    async with stage(tmp_path, sample_share=0.0) as running:
        envoy = running.deployed.envoy
        for _ in range(3):
            await running.ask(envoy.url, request(prompt("none", 100), stream=False))
        stats = await envoy.stats("http.clients.ext_proc")
        assert stats["http.clients.ext_proc.stream_msgs_sent"] == 3 * 3
        assert await running.samples() == {}


async def test_an_engine_cannot_be_told_to_report_its_blocks_anew(sampling: Stage) -> None:
    body = {**request(prompt("mode", 100), stream=False), "vllm_xargs": {"kv_cache_report_mode": "full"}}
    async with sampling.client.post(f"{sampling.deployed.envoy.url}/v1/completions", json=body) as response:
        assert response.status == 400
        error = (await response.json())["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", "vllm_xargs.kv_cache_report_mode")
    assert "full" not in error["message"]
