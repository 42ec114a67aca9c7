"""The set-ups that are compared, and one measurement of each."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.load import MODEL, Effort, drive, same_body
from tests.support.deployment import Bootstrap, data_plane, without_ext_proc
from tests.support.service import Service
from tests.support.usage import cpu_seconds, resident_bytes


@dataclass(frozen=True)
class Scenario:
    """One set-up. ``transport`` None is Envoy without us; ``reads_body`` has workers that declare a model."""

    key: str
    name: str
    transport: str | None = None
    policy: str = "round_robin"
    reads_body: bool = False


SCENARIOS = (
    Scenario("envoy", "Envoy alone"),
    Scenario("native", "round_robin, native, headers only", "native"),
    Scenario("native-body", "random, native, body parsed", "native", "random", reads_body=True),
    Scenario("grpcio", "round_robin, grpcio, headers only", "grpcio"),
    Scenario("grpcio-body", "random, grpcio, body parsed", "grpcio", "random", reads_body=True),
)


@dataclass(frozen=True)
class Result:
    """One measurement: CPU microseconds per request (ours, Envoy's), requests a second, latency in milliseconds."""

    scenario: Scenario
    body: str
    ours: float
    envoy: float
    rate: float
    p50: float
    p99: float
    router_bytes: int


@dataclass(frozen=True)
class Idle:
    """An idle service: share of one core over all its processes, and the memory of its largest router."""

    core_share: float
    router_bytes: int


async def measure_scenario(
    scenario: Scenario,
    *,
    bodies: dict[str, int],
    workers: list[str],
    directory: Path,
    effort: Effort,
) -> list[Result]:
    """Start the set-up, warm it up, and drive it with ``wrk`` for every size of body."""
    edit = without_ext_proc if scenario.transport is None else _unchanged
    results = []
    async with (
        Service(directory=directory, config=_config(scenario, workers)) as service,
        data_plane(service, edit=edit) as envoy,
    ):
        routers = await service.pids("router")
        for label, size in bodies.items():
            script = same_body(directory, size)
            await drive(envoy.url, script, effort, seconds=1)
            ours, theirs = cpu_seconds(routers), cpu_seconds([envoy.pid])
            report = await drive(envoy.url, script, effort)
            results.append(
                Result(
                    scenario,
                    label,
                    ours=(cpu_seconds(routers) - ours) / report.requests * 1e6,
                    envoy=(cpu_seconds([envoy.pid]) - theirs) / report.requests * 1e6,
                    rate=report.rate,
                    p50=report.p50,
                    p99=report.p99,
                    router_bytes=max(resident_bytes(pid) for pid in routers),
                )
            )
    return results


async def measure_idle(*, workers: list[str], directory: Path, seconds: int) -> Idle:
    """Start the service with two routers and leave it alone."""
    config = _config(SCENARIOS[1], workers) | {"supervisor": {"routers": 2}}
    async with Service(directory=directory, config=config) as service:
        pids = [service.pid, *service.child_pids()]
        before, started = cpu_seconds(pids), time.monotonic()
        await asyncio.sleep(seconds)
        share = (cpu_seconds(pids) - before) / (time.monotonic() - started)
        return Idle(share, max(resident_bytes(pid) for pid in await service.pids("router")))


def _unchanged(_bootstrap: Bootstrap) -> None:
    """Leave the bootstrap as it is generated."""


def _config(scenario: Scenario, workers: list[str]) -> dict[str, Any]:
    return {
        "server": {"transport": scenario.transport or "native"},
        "supervisor": {"routers": 1},
        "routing": {"policy": scenario.policy},
        "workers": [{"address": address, "models": [MODEL] if scenario.reads_body else []} for address in workers],
    }
