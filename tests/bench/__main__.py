"""``make bench``: what a request costs, side by side in one run.

`tokens` prints what tokenizing a prompt costs, `policies` what choosing a worker costs on top of that, and `recording`
what it costs to be recorded. `requests` drives the real Envoy with ``wrk`` and prints, for each set-up and body size,
the CPU microseconds per request on our side and on Envoy's, requests per second and latency. `peers` compares us with
other gateways, which ``make bench-peers`` installs. The last two need ``wrk`` (Debian package ``wrk``). Ratios within
one run are the result; absolute times belong to the machine.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.bench.gateways import SMG
from tests.bench.load import Effort
from tests.bench.peers import measure_peers, print_measured, ratio_rows
from tests.bench.policies import measure_policies
from tests.bench.recording import measure_recording
from tests.bench.report import bars, print_table
from tests.bench.rows import print_rows
from tests.bench.scenarios import SCENARIOS, Idle, Result, measure_idle, measure_scenario
from tests.bench.tokens import measure_tokens
from tests.bench.upstream import upstream

BODIES = {"600 B": 600, "32 KB": 32_000}
IDLE_SECS = 5


def main() -> int:
    """Measure what is asked for and report medians; 1 when a bar is missed, 2 when a program is not installed."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument(
        "what", nargs="*", choices=PARTS, default=list(DEFAULT), help="what to measure (default: all but peers)"
    )
    parser.add_argument("--seconds", type=int, default=5, help="length of one measurement (default: 5)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds over all set-ups; medians count (default: 3)")
    parser.add_argument("--connections", type=int, default=16, help="client connections (default: 16)")
    arguments = parser.parse_args()
    if missing := _missing(arguments.what):
        sys.stderr.write(f"{missing}\n")
        return 2
    effort = Effort(arguments.seconds, arguments.rounds, arguments.connections)
    return max(PARTS[part](effort) for part in dict.fromkeys(arguments.what))


def _missing(parts: list[str]) -> str:
    if {"requests", "peers"} & set(parts) and shutil.which("wrk") is None:
        return "wrk is not installed: apt-get install wrk"
    if "peers" in parts and not SMG.program.exists():
        return "SMG is not installed: make bench-peers"
    return ""


def _tokens(_effort: Effort) -> int:
    return print_rows(measure_tokens())


def _policies(_effort: Effort) -> int:
    return print_rows(list(measure_policies()))


def _recording(_effort: Effort) -> int:
    return print_rows(list(measure_recording()))


def _requests(effort: Effort) -> int:
    results, idle = asyncio.run(_measure_requests(effort))
    print_table(results)
    return print_rows(bars(results, idle))


def _peers(effort: Effort) -> int:
    results = asyncio.run(measure_peers(effort))
    missed = print_rows(list(ratio_rows(results)))
    print_measured(results)
    return missed


PARTS: dict[str, Callable[[Effort], int]] = {
    "tokens": _tokens,
    "policies": _policies,
    "recording": _recording,
    "requests": _requests,
    "peers": _peers,
}
DEFAULT = ("tokens", "policies", "recording", "requests")


async def _measure_requests(effort: Effort) -> tuple[list[Result], Idle]:
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="extproc-bench-") as name:
        directory = Path(name)
        async with upstream(directory) as workers:
            for number in range(1, effort.rounds + 1):
                for scenario in SCENARIOS:
                    place = directory / f"{number}-{scenario.key}"
                    place.mkdir()
                    results += await measure_scenario(
                        scenario, bodies=BODIES, workers=workers, directory=place, effort=effort
                    )
                    sys.stderr.write(f"round {number} of {effort.rounds}: {scenario.name}\n")
            (directory / "idle").mkdir()
            idle_secs = max(effort.seconds, IDLE_SECS)
            idle = await measure_idle(workers=workers, directory=directory / "idle", seconds=idle_secs)
    return results, idle


if __name__ == "__main__":
    sys.exit(main())
