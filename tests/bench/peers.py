"""``make bench-peers``: the same load on Envoy with us, on SMG and on vllm-router, side by side in one run.

Every set-up balances over the same workers and gets the same bodies. All CPU is counted: Envoy, routers, supervisor and
observer of ours, whatever another gateway consists of. Ratios are taken within a round, and their median counts.
"""

import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.bench.gateways import SMG, VLLM_ROUTER, Contender, Running, running
from tests.bench.inputs import make_bench_model
from tests.bench.load import MODEL, Effort, WrkReport, conversations, drive
from tests.bench.rows import Row
from tests.bench.upstream import upstream
from tests.support.deployment import data_plane, without_ext_proc
from tests.support.service import Service
from tests.support.usage import cpu_seconds, proportional_bytes
from tests.support.waiting import until

POLICY = "cache_aware"
"""The policy of ours that is compared."""

PEER_POLICY = "cache_aware"
RATIO_BAR = 1.5
LOADS = {"1,000 conversations": False, "no body twice": True}
WARM_UP_SECS = 2
AFTER_WARM_UP = 10_000_000
METRICS_SECS = 10.0
MB = 1e6


ALONE = Contender("envoy", "Envoy alone")
OURS = Contender("ours", f"Envoy + extproc, {POLICY} on tokens", POLICY)
RIVAL = Contender("smg", f"SMG, {PEER_POLICY}", PEER_POLICY, SMG)
OTHERS = (
    Contender("smg-round-robin", "SMG, round_robin", "round_robin", SMG),
    Contender("vllm-router", f"vllm-router, {PEER_POLICY}", PEER_POLICY, VLLM_ROUTER),
)


@dataclass(frozen=True)
class Measured:
    """One measurement: CPU microseconds per request (Envoy's, everything else's), memory in megabytes."""

    setup: Contender
    load: str
    number: int
    envoy: float
    others: float
    report: WrkReport
    memory: float

    @property
    def cpu(self) -> float:
        """All CPU per request."""
        return self.envoy + self.others


async def measure_peers(effort: Effort) -> list[Measured]:
    """Measure every set-up whose programs are installed, in rounds, every other round backwards."""
    setups = [ALONE, OURS, *(peer for peer in (RIVAL, *OTHERS) if peer.gateway and peer.gateway.program.exists())]
    results: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="extproc-bench-") as name:
        directory = Path(name)
        make_bench_model(directory / "model", "chatml")
        async with upstream(directory) as workers:
            for number in range(effort.rounds):
                for setup in setups if number % 2 == 0 else reversed(setups):
                    place = directory / f"{number}-{setup.key}"
                    place.mkdir()
                    async with _started(setup, workers=workers, directory=place) as one:
                        results += await _measure(setup, one, number=number, directory=place, effort=effort)
                    sys.stderr.write(f"round {number + 1} of {effort.rounds}: {setup.name}\n")
    return results


def ratio_rows(results: list[Measured]) -> Iterator[Row]:
    """Give what a request costs with us, to what it costs with each of the others."""
    for load in LOADS:
        for setup in _setups(results):
            if setup is not OURS:
                ratio = median(
                    ours.cpu / theirs.cpu
                    for ours in _of(results, OURS, load)
                    for theirs in _of(results, setup, load)
                    if ours.number == theirs.number
                )
                bar = (f"≤ {RATIO_BAR:g}x", ratio <= RATIO_BAR) if setup is RIVAL else ("", None)
                yield Row(f"{load}: CPU to {setup.name}", f"{ratio:.2f}x", *bar)


def print_measured(results: list[Measured]) -> None:
    """Print the medians, one line a load and set-up."""
    titles = f"{'CPU µs':>9}{'Envoy':>8}{'rest':>8}{'req/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'MB':>8}"
    print(f"\n{'load':<22}{'set-up':<40}{titles}")
    for load in LOADS:
        for setup in _setups(results):
            ran = list(_of(results, setup, load))
            cpu, envoy, others, memory = (
                median(getattr(one, field) for one in ran) for field in ("cpu", "envoy", "others", "memory")
            )
            rate, p50, p99 = (median(getattr(one.report, field) for one in ran) for field in ("rate", "p50", "p99"))
            print(
                f"{load:<22}{setup.name:<40}{cpu:>9.0f}{envoy:>8.0f}{others:>8.0f}{rate:>9.0f}{p50:>9.2f}{p99:>9.2f}"
                f"{memory:>8.0f}"
            )
    print("\nCPU µs: per request, of all processes. MB: of all processes, shared pages once.\n")


@asynccontextmanager
async def _started(setup: Contender, *, workers: list[str], directory: Path) -> AsyncIterator[Running]:
    if setup.gateway is not None:
        async with running(setup.gateway, setup.policy, workers=workers, directory=directory) as one:
            yield one
        return
    config = {
        "supervisor": {"routers": 1},
        "routing": {"policy": POLICY},
        "workers": [{"address": address, "models": [MODEL]} for address in workers],
        "models": [{"name": MODEL, "source": str(directory.parent / "model")}],
        "tokens": {"when": "always"},
    }
    async with Service(directory=directory, config=config) as service:
        if setup is ALONE:
            async with data_plane(service, edit=without_ext_proc) as envoy:
                yield Running(envoy.url, (), (envoy.pid,))
        else:
            async with data_plane(service) as envoy:
                yield Running(envoy.url, (service.pid, *service.child_pids()), (envoy.pid,), service)


async def _measure(setup: Contender, one: Running, *, number: int, directory: Path, effort: Effort) -> list[Measured]:
    sent, results = 0, []
    for load, fresh in LOADS.items():
        script = conversations(directory, fresh=fresh)
        warm_up = await drive(one.url, script, effort, seconds=WARM_UP_SECS)
        before = cpu_seconds(one.envoy), cpu_seconds(one.pids)
        report = await drive(one.url, script, effort, start=AFTER_WARM_UP)
        envoy, others = cpu_seconds(one.envoy) - before[0], cpu_seconds(one.pids) - before[1]
        sent += warm_up.requests + report.requests
        if one.service is not None:
            await _all_tokenized(one.service, sent)
        results.append(
            Measured(
                setup,
                load,
                number,
                envoy=envoy / report.requests * 1e6,
                others=others / report.requests * 1e6,
                report=report,
                memory=proportional_bytes([*one.envoy, *one.pids]) / MB,
            )
        )
    return results


async def _all_tokenized(service: Service, sent: int) -> None:
    """Wait until the service has counted a look-up of tokens for every request; one that went on without is no match.

    Raises ``TimeoutError`` when there were fewer.
    """

    async def counted() -> bool:
        return await service.metric("extproc_token_cache_lookups_total", level="0") >= sent

    await until(counted, deadline_secs=METRICS_SECS)


def _setups(results: list[Measured]) -> list[Contender]:
    return list(dict.fromkeys(one.setup for one in results if one.number == 0))


def _of(results: list[Measured], setup: Contender, load: str) -> Iterator[Measured]:
    return (one for one in results if one.setup is setup and one.load == load)
