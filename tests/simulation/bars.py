"""What policies come to on the shipped trace and on every built-in load, at a share of what round robin can bear."""

import gzip
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from extproc.simulation.bearable import bearable_rate
from extproc.simulation.contenders import CONTENDERS
from extproc.simulation.loads.generators.registry import LOADS
from extproc.simulation.loads.load import BLOCK_TOKENS, Load
from extproc.simulation.loads.scaled import scaled
from extproc.simulation.loads.trace import read_trace
from extproc.simulation.simulation import Setting, Simulation
from workers.engine.profile import load_profile

TRACE = Path(__file__).parent / "data" / "mooncake_synthetic_trace.jsonl.gz"
"""Synthetic trace of the Mooncake project (Apache-2.0), lengths and hashes of 3,993 requests."""
NAMES = ("trace", *LOADS)
REQUESTS = 4_000
SEEDS = (1,)
WARM_UP = 0.1
"""Share of the span at the beginning that is not looked at: nothing is known of any engine's speed then."""


class Figures(NamedTuple):
    """Of one policy, the mean over the seeds; times in seconds."""

    mean: float
    p99: float
    hit_rate: float
    latency: float


@cache
def load_of(name: str, seed: int) -> Load:
    if name == "trace":
        with gzip.open(TRACE) as file:
            return read_trace(file, name=name)  # type: ignore[arg-type]
    return LOADS[name](requests=REQUESTS, seed=seed)


@cache
def bearable(name: str, profile: str) -> float:
    setting = Setting(profile=load_profile(profile, block_size=BLOCK_TOKENS))
    return bearable_rate(load_of(name, SEEDS[0]), setting)


@cache
def figures(
    name: str,
    policy: str,
    *,
    share: float = 0.7,
    profile: str = "h100-8b",
    **changes: Any,  # noqa: ANN401 - fields of Setting
) -> Figures:
    """Play a load at a share of what round robin gets through at most, with each of the seeds."""
    rows = []
    for seed in SEEDS:
        load = load_of(name, seed)
        speed_up = share * bearable(name, profile) * load.secs / load.requests
        setting = Setting(profile=load_profile(profile, block_size=BLOCK_TOKENS), seed=seed, **changes)
        requests = Simulation(load=scaled(load, speed_up), setting=setting, contender=CONTENDERS[policy]).run().requests
        warm = requests.floats("sent_at") >= WARM_UP * load.secs / speed_up
        ttft = requests.floats("ttft")[warm]
        hit_rate = requests.integers("cached")[warm].sum() / requests.integers("prompt")[warm].sum()
        rows.append((ttft.mean(), np.percentile(ttft, 99), hit_rate, requests.floats("latency")[warm].mean()))
    return Figures(*np.mean(rows, axis=0).tolist())


COMPARED = ("expected_latency", "cache_aware", "manual", "prefix_hash", "least_load", "round_robin", "smg_cache_aware")


def main() -> None:
    """Print of each policy on each load: mean and 99th percentile of the time to first token in ms, and hit rate."""
    policies = (*COMPARED, "oracle", "oracle_of_queues", "oracle_of_caches")
    print("| load | " + " | ".join(f"`{policy}`" for policy in policies) + " |")
    print("|---" * (len(policies) + 1) + "|")
    for name in NAMES:
        rows = [figures(name, policy) for policy in policies]
        cells = [f"{row.mean * 1e3:.0f} / {row.p99 * 1e3:.0f} / {row.hit_rate:.0%}" for row in rows]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
