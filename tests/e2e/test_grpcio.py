"""The second transport in a whole service: what Envoy sees is the same."""

import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.deployment import MODEL, Deployment, data_plane, deployment, processing_mode
from tests.support.load import Load, post
from tests.support.waiting import until

pytestmark = pytest.mark.e2e

LOAD_SECS = 6.0
CLIENTS = 8
FEWEST_REQUESTS = 100

CHAT = post(
    "/v1/chat/completions",
    json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "x" * 500}], "max_tokens": 4}).encode(),
)
LARGE = post(
    "/v1/chat/completions",
    json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "x" * 300_000}], "max_tokens": 4}).encode(),
)


@pytest.fixture
async def deployed(tmp_path: Path) -> AsyncIterator[Deployment]:
    async with deployment(tmp_path, config={"server": {"transport": "grpcio", "drain_timeout_secs": 5}}) as running:
        yield running


async def test_requests_are_routed_in_both_body_modes_and_a_rolling_restart_costs_nothing(deployed: Deployment) -> None:
    for request in (CHAT, LARGE):
        buffered = await Load(deployed.address, request, clients=2, limit=12).run()
        assert buffered.failed == {}
        assert len(buffered.workers) == 3

    duplex = processing_mode(
        request_body_mode="FULL_DUPLEX_STREAMED",
        request_trailer_mode="SEND",
        response_header_mode="SEND",
        response_body_mode="FULL_DUPLEX_STREAMED",
        response_trailer_mode="SEND",
    )
    async with data_plane(deployed.service, edit=duplex) as envoy:
        for request in (CHAT, LARGE):
            streamed = await Load(f"127.0.0.1:{envoy.listen}", request, clients=2, limit=12).run()
            assert streamed.failed == {}
            assert len(streamed.workers) == 3
    # Envoy would also have balanced them by itself: each was decided by us.
    await until(lambda: routed(deployed, 48))

    before = await deployed.service.pids("router")

    async def restart() -> None:
        deployed.service.signal(signal.SIGHUP)
        await until(lambda: routers_replaced(deployed, before))

    result = await Load(deployed.address, CHAT, clients=CLIENTS).run_for(LOAD_SECS, during=restart)
    assert result.total > FEWEST_REQUESTS
    assert result.failed == {}
    assert result.broken_off == 0


async def routed(deployed: Deployment, count: int) -> bool:
    return await deployed.service.metric("extproc_requests_total", outcome="routed") == count


async def routers_replaced(deployed: Deployment, gone: list[int]) -> bool:
    ready = await deployed.service.pids("router")
    return len(ready) == len(gone) and not set(ready) & set(gone)
