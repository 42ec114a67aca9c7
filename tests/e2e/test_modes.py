"""Every mode a data plane may be configured for, with bodies of every size, over the real Envoy."""

import asyncio
import hashlib
import io
import json
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio

from tests.support.deployment import (
    Bootstrap,
    Deployment,
    data_plane,
    deployment,
    processing_mode,
    without_retries,
)
from tests.support.envoy import EnvoyProcess
from tests.support.h2_client import H2Client
from tests.support.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

MODES = {
    "headers_only": {"request_header_mode": "SEND", "request_body_mode": "NONE", "response_header_mode": "SEND"},
    "buffered": {"request_header_mode": "SEND", "request_body_mode": "BUFFERED", "response_header_mode": "SEND"},
    "buffered_both": {
        "request_header_mode": "SEND",
        "request_body_mode": "BUFFERED",
        "response_header_mode": "SEND",
        "response_body_mode": "BUFFERED",
    },
    "streamed_response": {
        "request_header_mode": "SEND",
        "request_body_mode": "BUFFERED",
        "response_header_mode": "SEND",
        "response_body_mode": "STREAMED",
        "response_trailer_mode": "SEND",
    },
    "pipelined": {"request_header_mode": "SEND", "request_body_mode": "PIPELINED", "response_header_mode": "SKIP"},
    "full_duplex": {
        "request_header_mode": "SEND",
        "request_body_mode": "FULL_DUPLEX_STREAMED",
        "request_trailer_mode": "SEND",
        "response_header_mode": "SKIP",
    },
    "full_duplex_both": {
        "request_header_mode": "SEND",
        "request_body_mode": "FULL_DUPLEX_STREAMED",
        "request_trailer_mode": "SEND",
        "response_header_mode": "SEND",
        "response_body_mode": "FULL_DUPLEX_STREAMED",
        "response_trailer_mode": "SEND",
    },
}
READS_BODIES = [mode for mode in MODES if mode != "headers_only"]
SIZES = [0, 1, 30, 62_000, 62_001, 500_000, 2_000_000, 6_000_000]
CHAT_SIZES = [size for size in SIZES if size > 1000]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def deployed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployment]:
    async with deployment(tmp_path_factory.mktemp("modes")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=MODES)
async def envoy(request: pytest.FixtureRequest, deployed: Deployment) -> AsyncIterator[EnvoyProcess]:
    async with data_plane(deployed.service, edit=processing_mode(**MODES[request.param])) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=READS_BODIES)
async def reading_envoy(request: pytest.FixtureRequest, deployed: Deployment) -> AsyncIterator[EnvoyProcess]:
    async with data_plane(deployed.service, edit=processing_mode(**MODES[request.param])) as running:
        yield running


@pytest_asyncio.fixture(
    loop_scope="module", scope="module", params=[mode for mode in READS_BODIES if mode != "buffered_both"]
)
async def streaming_envoy(request: pytest.FixtureRequest, deployed: Deployment) -> AsyncIterator[EnvoyProcess]:
    """Every mode in which Envoy itself passes an answer on as it comes."""
    async with data_plane(deployed.service, edit=processing_mode(**MODES[request.param])) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield session


def pattern(size: int) -> bytes:
    """Bytes in which a lost, repeated or swapped piece shows."""
    return b"".join(number.to_bytes(4, "big") for number in range(size // 4 + 1))[:size]


def chat_body(size: int) -> bytes:
    """A chat request of exactly ``size`` bytes."""
    shell = {"model": "tiny", "messages": [{"role": "user", "content": ""}], "max_tokens": 2}
    shell["messages"] = [{"role": "user", "content": "y" * (size - len(json.dumps(shell)))}]
    return json.dumps(shell).encode()


def expect_echo(echo: dict[str, object], body: bytes) -> None:
    assert echo["body_bytes"] == len(body)
    assert echo["body_sha256"] == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize("size", SIZES)
async def test_a_body_nobody_reads_arrives_unchanged(
    envoy: EnvoyProcess, client: aiohttp.ClientSession, size: int
) -> None:
    body = pattern(size)
    async with client.post(f"{envoy.url}/echo", data=io.BytesIO(body)) as response:
        assert response.status == 200, await response.text()
        expect_echo(await response.json(), body)


@pytest.mark.parametrize("size", CHAT_SIZES)
async def test_a_body_we_read_arrives_unchanged(
    reading_envoy: EnvoyProcess, deployed: Deployment, client: aiohttp.ClientSession, size: int
) -> None:
    body = chat_body(size)
    async with client.post(
        f"{reading_envoy.url}/v1/chat/completions", data=io.BytesIO(body), headers={"content-type": "application/json"}
    ) as response:
        assert response.status == 200, await response.text()
        served_by = response.headers["x-worker"]
    (worker,) = [one for one in deployed.workers if one.address == served_by]
    assert worker.requests()["last"][-1]["body_sha256"] == hashlib.sha256(body).hexdigest()


async def test_a_chunked_upload_arrives_unchanged(envoy: EnvoyProcess, client: aiohttp.ClientSession) -> None:
    body = pattern(300_000)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 7_001):
            yield body[start : start + 7_001]
            await asyncio.sleep(0)

    async with client.post(f"{envoy.url}/echo", data=pieces()) as response:
        assert response.status == 200, await response.text()
        expect_echo(await response.json(), body)


async def test_a_get_is_routed(envoy: EnvoyProcess, client: aiohttp.ClientSession) -> None:
    async with client.get(f"{envoy.url}/v1/models") as response:
        assert response.status == 200, await response.text()
        assert (await response.json())["data"][0]["id"] == "tiny"


@pytest.mark.parametrize("path", ["/echo", "/v1/completions"], ids=["nobody reads", "we read"])
@pytest.mark.parametrize("mode", READS_BODIES)
async def test_a_request_that_ends_with_trailers_arrives_unchanged(deployed: Deployment, mode: str, path: str) -> None:
    """Without retries: with them Envoy itself sends a streamed body twice (envoyproxy/envoy#45470)."""
    body = json.dumps({"model": "tiny", "prompt": "x" * 100_000, "max_tokens": 1}).encode()

    def edit(bootstrap: Bootstrap) -> None:
        processing_mode(**MODES[mode])(bootstrap)
        without_retries(bootstrap)

    for worker in deployed.workers:
        worker.forget_requests()
    async with data_plane(deployed.service, edit=edit) as envoy, H2Client(f"127.0.0.1:{envoy.listen}") as h2:
        await h2.request("POST", path, [("content-type", "application/json")])
        await h2.send(body)
        await h2.send_trailers([("x-checksum", "1")])
        await h2.read()
    assert h2.status == 200
    (arrived,) = [entry for worker in deployed.workers for entry in worker.requests()["last"]]
    assert arrived["body_sha256"] == hashlib.sha256(body).hexdigest()


async def test_a_client_that_breaks_off_harms_nobody(
    envoy: EnvoyProcess, deployed: Deployment, client: aiohttp.ClientSession
) -> None:
    for _ in range(20):
        async with H2Client(f"127.0.0.1:{envoy.listen}") as h2:
            await h2.request("POST", "/v1/chat/completions", [("content-length", "100000")])
            await h2.send(b"x" * 10_000)
            await h2.abort()
    async with client.get(f"{envoy.url}/v1/models") as response:
        assert response.status == 200
    await until(lambda: nothing_in_flight(deployed))


async def test_a_streamed_answer_arrives_chunk_by_chunk(streaming_envoy: EnvoyProcess) -> None:
    body = json.dumps({"model": "tiny", "stream": True, "messages": [{"role": "user", "content": "x"}]}).encode()
    headers = [("content-type", "application/json"), ("x-sim-tokens", "3"), ("x-sim-token-secs", "0.2")]
    async with H2Client(f"127.0.0.1:{streaming_envoy.listen}") as h2:
        await h2.request("POST", "/v1/chat/completions", headers)
        await h2.send(body, end_stream=True)
        arrivals = [piece async for piece in h2.answer()]
    assert h2.status == 200
    assert b"".join(arrivals).rstrip().endswith(b"data: [DONE]")
    assert len(arrivals) >= 3


async def test_a_model_cannot_be_found_where_bodies_are_kept_back(
    deployed: Deployment, client: aiohttp.ClientSession
) -> None:
    async with (
        data_plane(deployed.service, edit=processing_mode(**MODES["headers_only"])) as envoy,
        client.post(f"{envoy.url}/v1/chat/completions", data=chat_body(2000)) as response,
    ):
        assert (response.status, response.headers["x-extproc-reason"]) == (500, "body_unavailable")


async def nothing_in_flight(deployed: Deployment) -> bool:
    return not any(worker["in_flight"] for worker in await deployed.service.workers())
