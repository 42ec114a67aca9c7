"""The set-ups that are compared, and one measurement of each."""

import asyncio
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.deployment import Bootstrap, data_plane, without_ext_proc
from tests.support.service import Service
from tests.support.usage import cpu_seconds, resident_bytes

MODEL = "m"


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


@dataclass(frozen=True)
class WrkReport:
    """What ``wrk`` saw; latencies in milliseconds."""

    requests: int
    seconds: float
    p50: float
    p99: float


async def measure_scenario(
    scenario: Scenario,
    *,
    bodies: dict[str, int],
    workers: list[str],
    directory: Path,
    seconds: int,
    connections: int,
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
            script = _script(directory, size)
            await _wrk(envoy.url, script, seconds=1, connections=connections)
            ours, theirs = cpu_seconds(routers), cpu_seconds([envoy.pid])
            report = await _wrk(envoy.url, script, seconds=seconds, connections=connections)
            results.append(
                Result(
                    scenario,
                    label,
                    ours=(cpu_seconds(routers) - ours) / report.requests * 1e6,
                    envoy=(cpu_seconds([envoy.pid]) - theirs) / report.requests * 1e6,
                    rate=report.requests / report.seconds,
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


def _script(directory: Path, body_bytes: int) -> Path:
    sentence = "Tell me a story about routers. "
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": (sentence * (body_bytes // len(sentence) + 1))[: body_bytes - 150]},
    ]
    body = json.dumps({"model": MODEL, "messages": messages, "stream": False})
    path = directory / "post.lua"
    path.write_text(
        f'wrk.method = "POST"\nwrk.headers["content-type"] = "application/json"\nwrk.body = [==[{body}]==]\n'
        'done = function(s, l, r) io.write(string.format("JSON %d %d %d %d %d\\n", s.requests, s.duration,'
        " l:percentile(50), l:percentile(99), s.errors.status + s.errors.connect + s.errors.read + s.errors.write"
        " + s.errors.timeout)) end\n"
    )
    return path


async def _wrk(url: str, script: Path, *, seconds: int, connections: int) -> WrkReport:
    process = await asyncio.create_subprocess_exec(
        *("wrk", "-t1", f"-c{connections}", f"-d{seconds}", "-s", str(script), f"{url}/v1/chat/completions"),
        stdout=asyncio.subprocess.PIPE,
    )
    output = (await process.communicate())[0].decode()
    match = re.search(r"JSON (\d+) (\d+) (\d+) (\d+) (\d+)", output)
    if process.returncode or match is None:
        raise SystemExit(f"wrk failed\n{output}")
    requests, micros, p50, p99, errors = map(int, match.groups())
    if errors:
        raise SystemExit(f"{errors} of {requests} requests failed; a benchmark of failures says nothing\n{output}")
    return WrkReport(requests, micros / 1e6, p50 / 1e3, p99 / 1e3)
