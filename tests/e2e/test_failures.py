"""Nothing of ours that dies, restarts or changes costs a client a request."""

import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.support.deployment import MODEL, Deployment, deployment
from tests.support.load import Load, LoadResult, post
from tests.support.waiting import until

pytestmark = pytest.mark.e2e

LOAD_SECS = 7.0
CLIENTS = 16
FEWEST_REQUESTS = 500
"""A run with fewer says nothing; a loaded two-core machine does several times as many."""

CHAT = post(
    "/v1/chat/completions",
    json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "x" * 500}], "max_tokens": 4}).encode(),
)

Event = Callable[[Deployment], Awaitable[None]]


@pytest.fixture
async def deployed(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Deployment]:
    """Three workers and two routers; the parameter is the workers' models: without any, no body is read."""
    async with deployment(tmp_path, models=getattr(request, "param", (MODEL,))) as running:
        yield running


EITHER_WAY = pytest.mark.parametrize("deployed", [(MODEL,), ()], ids=["bodies read", "headers only"], indirect=True)


async def under_load(deployed: Deployment, event: Event) -> LoadResult:
    """Some seconds of load, the event after a third of it; the event must have had its effect by the end."""
    load = Load(deployed.address, CHAT, clients=CLIENTS)
    result = await load.run_for(LOAD_SECS, during=lambda: event(deployed))
    assert result.total > FEWEST_REQUESTS
    return result


@EITHER_WAY
async def test_a_killed_router_costs_nothing_and_is_replaced(deployed: Deployment) -> None:
    before = await deployed.service.pids("router")

    async def kill(_: Deployment) -> None:
        os.kill(before[0], signal.SIGKILL)
        await until(lambda: routers_other_than(deployed, before[:1], 2))

    result = await under_load(deployed, kill)
    assert result.failed == {}
    assert result.broken_off == 0


async def test_a_killed_observer_costs_nothing_and_is_replaced(deployed: Deployment) -> None:
    before = await deployed.service.pids("observer")

    async def kill(_: Deployment) -> None:
        os.kill(before[0], signal.SIGKILL)
        await until(lambda: replaced_observer(deployed, before))

    result = await under_load(deployed, kill)
    assert result.failed == {}
    assert result.broken_off == 0


async def test_a_rolling_restart_costs_nothing(deployed: Deployment) -> None:
    before = await deployed.service.pids("router")

    async def restart(_: Deployment) -> None:
        deployed.service.signal(signal.SIGHUP)
        await until(lambda: routers_other_than(deployed, before, 2))

    result = await under_load(deployed, restart)
    assert result.failed == {}
    assert result.broken_off == 0


@EITHER_WAY
async def test_a_removed_worker_costs_nothing_and_gets_nothing_more(deployed: Deployment) -> None:
    removed = deployed.service.config["workers"][0]

    async def remove(_: Deployment) -> None:
        deployed.service.config["workers"] = deployed.service.config["workers"][1:]
        deployed.service.write_config()
        await until(lambda: forgotten(deployed, removed["id"]))

    result = await under_load(deployed, remove)
    assert result.failed == {}
    assert result.broken_off == 0
    assert len(result.workers) == 3
    afterwards = await Load(deployed.address, CHAT, clients=4, limit=60).run()
    assert len(afterwards.workers) == 2


async def test_an_added_worker_costs_nothing_and_takes_its_share(deployed: Deployment) -> None:
    spec = deployed.service.config["workers"][2]
    deployed.service.config["workers"] = deployed.service.config["workers"][:2]
    deployed.service.write_config()
    await until(lambda: forgotten(deployed, spec["id"]))

    async def add(_: Deployment) -> None:
        deployed.service.config["workers"] = [*deployed.service.config["workers"], spec]
        deployed.service.write_config()

    result = await under_load(deployed, add)
    assert result.failed == {}
    assert len(result.workers) == 3


async def test_traffic_flows_on_when_all_of_ours_is_dead(deployed: Deployment) -> None:
    async def kill(_: Deployment) -> None:
        deployed.service.kill_everything()

    result = await under_load(deployed, kill)
    assert result.failed == {}
    assert result.broken_off == 0
    afterwards = await Load(deployed.address, CHAT, clients=4, limit=100).run()
    assert afterwards.failed == {}
    assert len(afterwards.workers) == 3


async def routers_other_than(deployed: Deployment, gone: list[int], count: int) -> bool:
    ready = await deployed.service.pids("router")
    return len(ready) == count and not set(ready) & set(gone)


async def replaced_observer(deployed: Deployment, gone: list[int]) -> bool:
    ready = await deployed.service.pids("observer")
    return bool(ready) and ready != gone


async def forgotten(deployed: Deployment, worker_id: str) -> bool:
    return worker_id not in {worker["id"] for worker in await deployed.service.workers()}
