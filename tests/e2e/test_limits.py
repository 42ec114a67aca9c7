"""What a router refuses for its own or the data plane's sake, and how it leaves."""

import asyncio
import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support import messages as m
from tests.support.deployment import (
    MODEL,
    Bootstrap,
    connection_manager,
    data_plane,
    deployment,
    processing_mode,
)
from tests.support.grpc_client import GrpcClient
from tests.support.load import Load, post
from tests.support.service import Service
from tests.support.waiting import until

pytestmark = pytest.mark.e2e

MAX_STREAMS = 5
SERVING, NOT_SERVING = 1, 2
BODY = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}).encode()


async def test_requests_over_the_limit_are_told_to_come_back(tmp_path: Path) -> None:
    config = {"server": {"max_streams": MAX_STREAMS}, "supervisor": {"routers": 1}}
    slow = {"x-sim-ttft-secs": "1", "content-type": "application/json"}
    answers: list[tuple[int, str, str]] = []
    async with deployment(tmp_path, workers=1, config=config) as deployed, aiohttp.ClientSession() as client:

        async def ask() -> None:
            url = f"{deployed.envoy.url}/v1/chat/completions"
            async with client.post(url, data=BODY, headers=slow) as response:
                headers = response.headers
                answers.append((response.status, headers.get("x-extproc-reason", ""), headers.get("retry-after", "")))

        await asyncio.gather(*(ask() for _ in range(MAX_STREAMS * 4)))
    kinds = Counter(answers)
    assert set(kinds) == {(200, "", ""), (429, "overloaded", "1")}
    assert kinds[200, "", ""] == MAX_STREAMS


@pytest.mark.parametrize("chosen", [[1], [], ["10.9.9.9:1"]], ids=["one worker", "empty", "a stranger"])
async def test_the_data_planes_subset_is_obeyed(tmp_path: Path, chosen: list[Any]) -> None:
    async with deployment(tmp_path) as deployed:
        subset = [deployed.workers[each].address if isinstance(each, int) else each for each in chosen]

        def hint(bootstrap: Bootstrap) -> None:
            metadata = {
                "metadata_namespace": "envoy.lb.subset_hint",
                "value": {"x-gateway-destination-endpoint-subset": subset},
            }
            config = {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.set_metadata.v3.Config",
                "metadata": [metadata],
            }
            filters = connection_manager(bootstrap)["http_filters"]
            filters.insert(0, {"name": "envoy.filters.http.set_metadata", "typed_config": config})

        async with data_plane(deployed.service, edit=hint) as envoy:
            result = await Load(
                f"127.0.0.1:{envoy.listen}", post("/v1/chat/completions", BODY), clients=2, limit=10
            ).run()
    if chosen == [1]:
        assert result.statuses == {200: 10}
        assert set(result.workers) == set(subset)
    else:
        assert result.statuses == {503: 10}


async def test_a_stopping_router_says_so_and_serves_on_while_that_spreads(tmp_path: Path) -> None:
    config = {"server": {"drain_linger_secs": 5}, "supervisor": {"routers": 1}}
    async with deployment(tmp_path, workers=1, models=(), config=config) as deployed:
        socket = f"unix:{deployed.service.directory}/run/router-0.sock"
        async with GrpcClient(socket) as known:
            assert await known.check("readiness") == SERVING
            deployed.service.signal(signal.SIGTERM)
            await until(lambda: says(known, NOT_SERVING))
            async with GrpcClient(socket) as late:
                reply = await late.process().ask(m.request_headers("none", method="GET").SerializeToString())
    assert reply is not None
    assert m.destinations([reply]) == [deployed.workers[0].address]


async def test_a_rolling_restart_loses_no_piece_of_an_answer_that_passes_through(tmp_path: Path) -> None:
    """In FULL_DUPLEX_STREAMED responses every chunk travels through the router that is replaced."""
    tokens, answers = 150, 30
    mode = processing_mode(
        request_header_mode="SEND",
        request_body_mode="FULL_DUPLEX_STREAMED",
        request_trailer_mode="SEND",
        response_header_mode="SEND",
        response_body_mode="FULL_DUPLEX_STREAMED",
        response_trailer_mode="SEND",
    )
    flags = ("--ttft-secs", "0.005", "--token-secs", "0.015", "--max-tokens", str(tokens))
    body = {"model": MODEL, "stream": True, "max_tokens": tokens, "messages": [{"role": "user", "content": "x"}]}
    seen: Counter[tuple[int, int]] = Counter()
    async with (
        deployment(tmp_path, config={"server": {"drain_timeout_secs": 1}}, edit=mode, worker_flags=flags) as deployed,
        aiohttp.ClientSession() as client,
    ):

        async def ask() -> None:
            async with client.post(f"{deployed.envoy.url}/v1/chat/completions", json=body) as response:
                seen[response.status, (await response.text()).count("data:")] += 1

        before = await deployed.service.pids("router")
        asking = asyncio.gather(*(ask() for _ in range(answers)))
        await until(lambda: in_flight(deployed.service, answers))
        deployed.service.signal(signal.SIGHUP)
        await asking
        await until(lambda: all_replaced(deployed.service, before))
    assert len(seen) == 1, seen
    assert set(seen.values()) == {answers}


async def says(client: GrpcClient, status: int) -> bool:
    return await client.check("readiness") == status


async def in_flight(service: Service, count: int) -> bool:
    return sum([int(worker["in_flight"]) for worker in await service.workers()]) == count


async def all_replaced(service: Service, before: list[int]) -> bool:
    ready = await service.pids("router")
    return len(ready) == len(before) and not set(ready) & set(before)
