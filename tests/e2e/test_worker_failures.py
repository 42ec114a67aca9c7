"""Workers that die, hang, fail, leave and join under load: no request is lost, and none goes to a dead one for long."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.deployment import MODEL, Deployment, deployment
from tests.support.load import Load, LoadResult, post
from tests.support.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

LOAD_SECS = 20.0
CLIENTS = 16
FEWEST_REQUESTS = 500
OUT_SECS = 1.0
"""Time from a worker's first failure until nothing more is sent there."""
TRIALS = 6
"""Requests that try a worker whose breaker is half-open: after 1, 2, 4 ... seconds."""

CHAT = post(
    "/v1/chat/completions",
    json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "x" * 500}], "max_tokens": 4}).encode(),
)
CONFIG: dict[str, Any] = {"routing": {"policy": "cache_aware"}, "fleet": {"hung_after_secs": 1.0}}

Event = Callable[[Deployment], Awaitable[None]]


async def under_load(deployed: Deployment, event: Event) -> LoadResult:
    """Twenty seconds of load, the event after a third of it; at the end everything in flight is given back."""
    result = await Load(deployed.address, CHAT, clients=CLIENTS).run_for(LOAD_SECS, during=lambda: event(deployed))
    assert result.total > FEWEST_REQUESTS
    assert result.failed == {}
    return result


async def nothing_in_flight(deployed: Deployment) -> bool:
    numbers = ("in_flight", "requests", "prefill_secs", "decode_tokens")
    return not any(row[name] for row in await deployed.service.workers() for name in numbers)


async def is_out(deployed: Deployment, *names: str) -> bool:
    """Whether no request is sent to any of some workers."""
    rows = {row["id"]: row for row in await deployed.service.workers()}
    return all(not rows[name]["healthy"] or rows[name]["outcome"]["open_until"] > 0 for name in names)


async def decisions(deployed: Deployment, name: str) -> float:
    return await deployed.service.metric("extproc_decisions_total", worker=name)


async def out_within(deployed: Deployment, secs: float, *names: str) -> None:
    """Wait until workers are out of rotation, which must not take longer than this."""
    started = time.monotonic()
    await until(lambda: is_out(deployed, *names))
    assert time.monotonic() - started < secs


async def stays_out(deployed: Deployment, name: str, settled: float) -> None:
    """Whether hardly anything was sent to a worker since ``settled`` requests were."""
    assert await decisions(deployed, name) - settled <= TRIALS
    await until(lambda: nothing_in_flight(deployed))


async def settle(deployed: Deployment, name: str) -> float:
    """Requests sent to a worker once routers have written what they counted before."""
    before = -1.0
    while (now := await decisions(deployed, name)) != before:
        before = now
        await asyncio.sleep(0.5)
    return now


async def test_a_killed_worker_and_one_that_answers_503_are_passed_over(tmp_path: Path) -> None:
    """Only answers that the killed one had begun are lost; the other returns by itself."""
    async with deployment(tmp_path, workers=5, config=CONFIG) as deployed:
        settled: dict[str, float] = {}

        async def fail(_: Deployment) -> None:
            deployed.workers[0].kill()
            await out_within(deployed, OUT_SECS, "w0")
            deployed.workers[1].behave(mode="error", error_status=503)
            await out_within(deployed, OUT_SECS, "w1")
            settled.update({name: await settle(deployed, name) for name in ("w0", "w1")})

        result = await under_load(deployed, fail)
        assert result.broken_off <= CLIENTS
        for name, requests in settled.items():
            await stays_out(deployed, name, requests)
        deployed.workers[1].normal()
        load = Load(deployed.address, CHAT, clients=CLIENTS)
        await load.run_until(lambda: _serves_again(deployed, "w1"))
        assert load.result.failed == {}
        await until(lambda: nothing_in_flight(deployed))


async def test_a_hung_worker_gives_its_requests_back_and_a_draining_one_finishes_its_own(tmp_path: Path) -> None:
    """A hang is noticed by a probe: one interval, then the first of two time-outs, which is the first failure."""
    unnoticed_secs = 1.1 + 0.6
    async with deployment(tmp_path, workers=5, config=CONFIG) as deployed:
        settled: dict[str, float] = {}

        async def hang_and_drain(_: Deployment) -> None:
            deployed.workers[0].pause()
            await out_within(deployed, unnoticed_secs + OUT_SECS, "w0")
            deployed.service.config["workers"][1]["draining"] = True
            deployed.service.write_config()
            await until(lambda: _has_state(deployed, "w1", "draining"))
            settled.update({name: await settle(deployed, name) for name in ("w0", "w1")})

        try:
            result = await under_load(deployed, hang_and_drain)
            await stays_out(deployed, "w0", settled["w0"])
            assert await decisions(deployed, "w1") == settled["w1"]
        finally:
            deployed.workers[0].resume()
        assert result.broken_off == 0
        await until(lambda: _is_healthy(deployed, "w0"))


async def test_half_of_the_fleet_may_go_at_once(tmp_path: Path) -> None:
    async with deployment(tmp_path, workers=8, config=CONFIG) as deployed:
        gone = ("w0", "w1", "w2", "w3")

        async def kill(_: Deployment) -> None:
            for worker in deployed.workers[:4]:
                worker.kill()
            await out_within(deployed, OUT_SECS, *gone)

        result = await under_load(deployed, kill)
        assert result.broken_off <= CLIENTS
        await until(lambda: nothing_in_flight(deployed))


async def test_a_fleet_that_doubles_is_used_at_once(tmp_path: Path) -> None:
    config = CONFIG | {"routing": {"policy": "least_load"}}
    async with deployment(tmp_path, workers=8, config=config) as deployed:
        everybody = deployed.service.config["workers"]
        deployed.service.config["workers"] = everybody[:4]
        deployed.service.write_config()
        await until(lambda: _fleet_has(deployed, 4))

        async def double(_: Deployment) -> None:
            deployed.service.config["workers"] = everybody
            deployed.service.write_config()
            await until(lambda: _fleet_has(deployed, 8))

        result = await under_load(deployed, double)
        assert result.broken_off == 0
        assert len(result.workers) == 8
        await until(lambda: nothing_in_flight(deployed))


async def _is_healthy(deployed: Deployment, name: str) -> bool:
    return any(row["id"] == name and row["healthy"] for row in await deployed.service.workers())


async def _has_state(deployed: Deployment, name: str, state: str) -> bool:
    return any(row["id"] == name and row["state"] == state for row in await deployed.service.workers())


async def _serves_again(deployed: Deployment, name: str) -> bool:
    rows = {row["id"]: row for row in await deployed.service.workers()}
    return bool(rows[name]["outcome"]["open_until"] == 0 and rows[name]["in_flight"] > 0)


async def _fleet_has(deployed: Deployment, count: int) -> bool:
    return len(await deployed.service.workers()) == count
