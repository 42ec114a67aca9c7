"""Where requests go, and what clients see of it, in real time: 8 simulated engines behind one gateway after another.

Every contender gets the same load, with engines and a gateway that have just been started. Time to first token is what
the client measures, from the moment when a request is due; hit rate is the share of prompt tokens that the engines had
cached, as they tell in ``usage``. No model is configured and no events are subscribed to: everybody routes on the text.
"""

import asyncio
import math
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from types import MappingProxyType

from extproc.simulation.loads.generators.agents import Agents
from extproc.simulation.loads.generators.chat import Chat
from extproc.simulation.loads.generators.shared_prompts import SharedPrompts
from extproc.simulation.loads.load import Load
from tests.bench.gateways import SMG, Contender, Gateway, Running, running
from tests.bench.load import MODEL
from tests.bench.playing import PATH, Planned, Played, planned, play, warm_up
from tests.support.deployment import Bootstrap, data_plane, without_ext_proc
from tests.support.service import Service
from tests.support.simulated_worker import SimulatedWorkers, WorkerCalls
from tests.support.usage import cpu_seconds

ENGINES = 8
PROFILE = "h100-8b"
ENGINE_FLAGS = ("--profile", PROFILE, "--model", MODEL, "--stream-interval-secs", "0.1")
"""Streams are written seldom: 8 engines, a gateway and a client share the machine. First tokens are written at once."""

LOADS: MappingProxyType[str, Load] = MappingProxyType(
    {
        "shared_prompts": SharedPrompts(requests=800, rate=40.0),
        "chat": Chat(requests=300, rate=30.0, turns=3.0, think_secs=1.0),
        "agents": Agents(requests=180, rate=16.0, min_turns=4, max_turns=8),
    }
)
"""Shorter in time and sessions than the simulator's, so that a machine of two cores carries them."""


ALONE = Contender("envoy", "Envoy alone, round robin")
OURS = Contender("expected_latency", "Envoy + extproc, expected_latency", "expected_latency")
RIVAL = Contender("smg", "SMG cache_aware", "cache_aware", SMG)
FRESHER = Gateway(SMG.name, (*SMG.command, "--load-monitor-interval", "1"))
"""By default SMG reads its workers' load every 10 s, and new prefixes go where that was lowest."""

CONTENDERS = (
    ALONE,
    *(Contender(name, f"Envoy + extproc, {name}", name) for name in ("round_robin", "least_load", "cache_aware")),
    OURS,
    RIVAL,
    Contender("smg-1s", "SMG cache_aware, load read every 1 s", "cache_aware", FRESHER),
)


@dataclass(frozen=True)
class Outcome:
    """What became of a load with a contender.

    Times in seconds. ``spread`` is the requests of the busiest engine to the mean. CPU is that of the gateway, all its
    processes, per request; ``engines_core`` is the share of a core that the engines' process took.
    """

    load: str
    contender: Contender
    number: int
    played: Played
    spread: float
    gateway_cpu_secs: float
    engines_core: float

    @property
    def mean(self) -> float:
        """Mean time to first token."""
        return mean(self.played.ttft_secs or [math.nan])

    @property
    def hit_rate(self) -> float:
        """Share of prompt tokens that were cached."""
        return self.played.cached_tokens / max(1, self.played.prompt_tokens)

    def quantile(self, share: float) -> float:
        """Return the time to first token that ``share`` of the answers kept."""
        return quantile(self.played.ttft_secs, share)


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of the values do not exceed; not a number of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


async def measure_routing(*, loads: Sequence[str], rounds: int) -> list[Outcome]:
    """Play every load to every contender that is installed, in rounds, every other round backwards."""
    contenders = [one for one in CONTENDERS if one.gateway is None or one.gateway.program.exists()]
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="extproc-bench-") as name:
        for load in loads:
            sessions = planned(LOADS[load])
            for number in range(rounds):
                for contender in contenders if number % 2 == 0 else reversed(contenders):
                    place = Path(name) / f"{load}-{number}-{contender.key}"
                    place.mkdir()
                    outcome = await _measured(load, sessions, contender, number=number, directory=place)
                    outcomes.append(outcome)
                    sys.stderr.write(
                        f"{load}, round {number + 1} of {rounds}: {contender.name}: mean {outcome.mean * 1e3:.0f} ms,"
                        f" p99 {outcome.quantile(0.99) * 1e3:.0f} ms, hit rate {outcome.hit_rate:.1%}\n"
                    )
    return outcomes


async def _measured(
    load: str, sessions: Sequence[Planned], contender: Contender, *, number: int, directory: Path
) -> Outcome:
    async with AsyncExitStack() as stack:
        engines = await asyncio.to_thread(SimulatedWorkers.start, *ENGINE_FLAGS, workers=ENGINES)
        stack.push_async_callback(asyncio.to_thread, engines.stop)
        addresses = [engine.address for engine in engines.workers]
        gateway = await stack.enter_async_context(_started(contender, addresses, directory))
        await warm_up(gateway.url)
        await asyncio.to_thread(_forget, engines.workers)
        pids = (*gateway.envoy, *gateway.pids)
        before = cpu_seconds(pids), cpu_seconds([engines.process.pid])
        played = await play(gateway.url, sessions)
        after = cpu_seconds(pids), cpu_seconds([engines.process.pid])
        served = await asyncio.to_thread(_served, engines.workers)
    return Outcome(
        load,
        contender,
        number,
        played,
        spread=max(served) / max(1e-9, mean(served)),
        gateway_cpu_secs=(after[0] - before[0]) / max(1, sum(served)),
        engines_core=(after[1] - before[1]) / played.secs,
    )


def _forget(engines: Sequence[WorkerCalls]) -> None:
    """Empty the caches and set the counts back."""
    for engine in engines:
        status, body = engine.call("POST", "/reset_prefix_cache")
        if status != 200:
            raise RuntimeError(f"an engine kept its cache: {status} {body[:200]!r}")
        engine.forget_requests()


def _served(engines: Sequence[WorkerCalls]) -> list[int]:
    """Return the requests of each engine that clients sent; gateways send some of their own."""
    return [engine.requests()["by_path"].get(PATH, 0) for engine in engines]


@asynccontextmanager
async def _started(contender: Contender, workers: list[str], directory: Path) -> AsyncIterator[Running]:
    """Start a gateway with its defaults."""
    if contender.gateway is not None:
        async with running(contender.gateway, contender.policy, workers=workers, directory=directory) as one:
            yield one
        return
    config = {
        "supervisor": {"routers": 1},
        "routing": {"policy": contender.policy or "round_robin"},
        "workers": [{"address": address, "models": [MODEL]} for address in workers],
    }
    async with Service(directory=directory, config=config) as service:
        if contender is ALONE:
            async with data_plane(service, edit=_round_robin) as envoy:
                yield Running(envoy.url, (), (envoy.pid,))
        else:
            async with data_plane(service) as envoy:
                yield Running(envoy.url, (service.pid, *service.child_pids()), (envoy.pid,), service)


def _round_robin(bootstrap: Bootstrap) -> None:
    """Take us out of a bootstrap, and let Envoy give every worker its turn."""
    without_ext_proc(bootstrap)
    name = "envoy.load_balancing_policies.round_robin"
    policy = {"@type": "type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin"}
    for cluster in bootstrap["static_resources"]["clusters"]:
        if "load_balancing_policy" in cluster:
            cluster["load_balancing_policy"] = {
                "policies": [{"typed_extension_config": {"name": name, "typed_config": policy}}]
            }


def of(outcomes: Sequence[Outcome], load: str, contender: Contender) -> Iterator[Outcome]:
    """Give the outcomes of a load with a contender, round after round."""
    return (one for one in outcomes if one.load == load and one.contender is contender)
