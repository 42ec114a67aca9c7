"""Admission, load and what a client's disconnect does to them, over a real server."""

import asyncio
import json
from collections.abc import Iterator

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.processes import wait_until
from tests.support.simulated_worker import SimulatedWorker

HELD = {"model": "tiny", "prompt": "abcd" * 10, "max_tokens": 6}


@pytest.fixture(scope="module")
def narrow_worker() -> Iterator[SimulatedWorker]:
    """One request at a time and a cache of 64 tokens."""
    flags = ("--max-num-seqs", "1", "--kv-cache-tokens", "64", "--ttft-secs", "0", "--token-secs", "0")
    with SimulatedWorker.start(*flags) as worker:
        yield worker


def gauge(worker: SimulatedWorker, name: str) -> float:
    families = text_string_to_metric_families(worker.metrics())
    return next(family.samples[0].value for family in families if family.name == f"vllm:{name}")


def load(worker: SimulatedWorker) -> tuple[float, float]:
    return gauge(worker, "num_requests_running"), gauge(worker, "num_requests_waiting")


async def until_load(worker: SimulatedWorker, running: int, waiting: int) -> None:
    await asyncio.to_thread(wait_until, lambda: load(worker) == (running, waiting), why=lambda: str(load(worker)))


async def test_further_requests_wait_for_a_place(narrow_worker: SimulatedWorker) -> None:
    narrow_worker.behave(stall_after_tokens=0)
    async with aiohttp.ClientSession(narrow_worker.url) as session, asyncio.TaskGroup() as group:

        async def send() -> int:
            async with session.post("/v1/completions", json=HELD) as response:
                return response.status

        answers = [group.create_task(send()) for _ in range(3)]
        await until_load(narrow_worker, 1, 2)
        assert gauge(narrow_worker, "kv_cache_usage_perc") == 16 / 64
        assert json.loads(narrow_worker.call("GET", "/load")[1]) == {"server_load": 3}
        narrow_worker.behave()

    assert [answer.result() for answer in answers] == [200, 200, 200]
    assert load(narrow_worker) == (0, 0)
    assert gauge(narrow_worker, "kv_cache_usage_perc") == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_ends_its_request(narrow_worker: SimulatedWorker, *, stream: bool) -> None:
    narrow_worker.forget_requests()
    narrow_worker.behave(stall_after_tokens=1)
    async with aiohttp.ClientSession(narrow_worker.url) as session:
        request = asyncio.ensure_future(_swallow(session, HELD | {"stream": stream}))  # noqa: TID251 - cancelled here
        await until_load(narrow_worker, 1, 0)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request

    await until_load(narrow_worker, 0, 0)
    shown = narrow_worker.requests()
    assert (shown["aborted"], shown["served"], shown["in_flight"]) == (1, 0, 0)
    narrow_worker.behave()
    assert narrow_worker.call("POST", "/v1/completions", json.dumps(HELD).encode())[0] == 200
    assert narrow_worker.log() == ""


async def test_a_waiting_client_that_goes_gives_up_its_place(narrow_worker: SimulatedWorker) -> None:
    narrow_worker.behave(stall_after_tokens=0)
    async with aiohttp.ClientSession(narrow_worker.url) as session, asyncio.TaskGroup() as group:
        first = group.create_task(_swallow(session, HELD))
        await until_load(narrow_worker, 1, 0)
        second = group.create_task(_swallow(session, HELD))
        await until_load(narrow_worker, 1, 1)
        second.cancel()
        await until_load(narrow_worker, 1, 0)
        narrow_worker.behave()

    assert first.result() == 200
    assert load(narrow_worker) == (0, 0)


async def test_two_thousand_requests_at_once_are_all_served() -> None:
    with SimulatedWorker.start("--mode", "hang", "--ttft-secs", "0", "--token-secs", "0") as worker:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(worker.url, connector=connector) as session, asyncio.TaskGroup() as group:
            answers = [group.create_task(_swallow(session, HELD)) for _ in range(2000)]
            await asyncio.to_thread(worker.wait_for_requests, lambda shown: shown["in_flight"] == 2000)
            worker.behave()

        assert {answer.result() for answer in answers} == {200}
        assert worker.requests()["max_in_flight"] == 2000


async def _swallow(session: aiohttp.ClientSession, body: dict[str, object]) -> int:
    async with session.post("/v1/completions", json=body) as response:
        await response.read()
        return response.status
