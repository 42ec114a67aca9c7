"""Many requests at once, and many one after another."""

import json
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.deployment import MODEL, Deployment, deployment
from tests.support.load import Load, post
from tests.support.usage import resident_bytes
from tests.support.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

AT_ONCE = 2_000
IN_ALL = 100_000
WARM_UP = 20_000
MAX_GROWTH_BYTES = 8 << 20
"""Over 80,000 requests: 100 bytes kept of each would show."""


@pytest.fixture(autouse=True)
def _many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def chat(**headers: str) -> bytes:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x" * 400}], "max_tokens": 1}
    return post("/v1/chat/completions", json.dumps(body).encode(), headers)


async def test_two_thousand_slow_requests_at_once_are_all_answered(tmp_path: Path) -> None:
    async with deployment(tmp_path) as deployed:
        result = await Load(deployed.address, chat(**{"x-sim-ttft-secs": "5"}), clients=AT_ONCE, limit=AT_ONCE).run()
        assert result.failed == {}
        assert result.statuses[200] == AT_ONCE
        at_once = sum(worker.requests()["max_in_flight"] for worker in deployed.workers)
        assert at_once > AT_ONCE * 0.9, "they were not in flight together"
        await until(lambda: nothing_in_flight(deployed))


async def test_a_hundred_thousand_requests_leave_memory_flat_and_nothing_in_flight(tmp_path: Path) -> None:
    flags = ("--ttft-secs", "0", "--token-secs", "0", "--max-tokens", "1")
    async with deployment(tmp_path, worker_flags=flags) as deployed:
        pids = await deployed.service.pids("router")
        warm = await Load(deployed.address, chat(), clients=32, limit=WARM_UP).run()
        before = {pid: resident_bytes(pid) for pid in pids}
        rest = await Load(deployed.address, chat(), clients=32, limit=IN_ALL - WARM_UP).run()
        growth = {pid: resident_bytes(pid) - before[pid] for pid in pids}
        assert warm.failed == rest.failed == {}
        assert warm.statuses[200] + rest.statuses[200] == IN_ALL
        assert await deployed.service.pids("router") == pids
        assert max(growth.values()) < MAX_GROWTH_BYTES
        await until(lambda: everything_counted(deployed))
        await until(lambda: nothing_in_flight(deployed))


async def everything_counted(deployed: Deployment) -> bool:
    return await deployed.service.metric("extproc_requests_total", outcome="routed") == IN_ALL


async def nothing_in_flight(deployed: Deployment) -> bool:
    streams = await deployed.service.metric("extproc_streams_active")
    return streams == 0 and not any(worker["in_flight"] for worker in await deployed.service.workers())
