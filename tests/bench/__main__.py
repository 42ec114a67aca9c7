"""``make bench``: what a request costs, side by side in one run.

`tokens` prints what tokenizing a prompt costs, `policies` what choosing a worker costs on top of that, `recording` what
it costs to be recorded, `kv_events` how fast the events of engines are read, and `kv_follow` what following 64 engines
takes of a core and of a router's time for a choice. `requests` drives the real Envoy with ``wrk`` and prints, for each
set-up and body size, the CPU microseconds per request on our side and on Envoy's, requests per second and latency.
`peers` compares us with other gateways, which ``make bench-peers`` installs. These two need ``wrk`` (Debian package
``wrk``). `routing` plays three loads in real time to 8 simulated engines behind several policies of ours, and behind
another gateway where that is installed: who answers sooner, and how much of it from caches. Ratios within one run are
the result; absolute times belong to the machine.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.bench.gateways import SMG
from tests.bench.kv_events import measure_kv_events
from tests.bench.kv_follow import measure_kv_follow
from tests.bench.load import Effort
from tests.bench.peers import measure_peers, print_measured, ratio_rows
from tests.bench.policies import measure_policies
from tests.bench.recording import measure_recording
from tests.bench.report import bars, print_table
from tests.bench.routing import LOADS, measure_routing
from tests.bench.routing_report import markdown, routing_rows, write_report
from tests.bench.rows import print_rows
from tests.bench.scenarios import SCENARIOS, Idle, Result, measure_idle, measure_scenario
from tests.bench.tokens import measure_tokens
from tests.bench.upstream import upstream

BODIES = {"600 B": 600, "32 KB": 32_000}
IDLE_SECS = 5
ROUNDS_HELP = "rounds of routing, 1 to 20; medians count (default: 1)"


def main() -> int:
    """Measure what is asked for and report medians; 1 when a bar is missed, 2 when a program is not installed."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument(
        "what", nargs="*", choices=PARTS, default=list(DEFAULT), help=f"what to measure (default: {' '.join(DEFAULT)})"
    )
    parser.add_argument("--seconds", type=int, default=5, help="length of one measurement (default: 5)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds over all set-ups; medians count (default: 3)")
    parser.add_argument("--connections", type=int, default=16, help="client connections (default: 16)")
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=list(LOADS), help="what routing plays")
    parser.add_argument("--routing-rounds", type=int, choices=range(1, 21), default=1, metavar="N", help=ROUNDS_HELP)
    parser.add_argument("--out", type=Path, help="folder for the report of routing (default: a new temporary one)")
    arguments = parser.parse_args()
    if missing := _missing(arguments.what):
        sys.stderr.write(f"{missing}\n")
        return 2
    return max(PARTS[part](arguments) for part in dict.fromkeys(arguments.what))


def _effort(arguments: argparse.Namespace) -> Effort:
    return Effort(arguments.seconds, arguments.rounds, arguments.connections)


def _missing(parts: list[str]) -> str:
    if {"requests", "peers"} & set(parts) and shutil.which("wrk") is None:
        return "wrk is not installed: apt-get install wrk"
    if "peers" in parts and not SMG.program.exists():
        return "SMG is not installed: make bench-peers"
    return ""


def _tokens(_arguments: argparse.Namespace) -> int:
    return print_rows(measure_tokens())


def _policies(_arguments: argparse.Namespace) -> int:
    return print_rows(list(measure_policies()))


def _recording(_arguments: argparse.Namespace) -> int:
    return print_rows(list(measure_recording()))


def _kv_events(_arguments: argparse.Namespace) -> int:
    return print_rows(list(measure_kv_events()))


def _kv_follow(_arguments: argparse.Namespace) -> int:
    return print_rows(list(measure_kv_follow()))


def _requests(arguments: argparse.Namespace) -> int:
    results, idle = asyncio.run(_measure_requests(_effort(arguments)))
    print_table(results)
    return print_rows(bars(results, idle))


def _peers(arguments: argparse.Namespace) -> int:
    results = asyncio.run(measure_peers(_effort(arguments)))
    missed = print_rows(list(ratio_rows(results)))
    print_measured(results)
    return missed


def _routing(arguments: argparse.Namespace) -> int:
    outcomes = asyncio.run(measure_routing(loads=arguments.loads, rounds=arguments.routing_rounds))
    print(markdown(outcomes))
    out = arguments.out or Path(tempfile.mkdtemp(prefix="bench-"))
    write_report(outcomes, out)
    print(f"The report is in {out}\n")
    return print_rows(list(routing_rows(outcomes)))


PARTS: dict[str, Callable[[argparse.Namespace], int]] = {
    "tokens": _tokens,
    "policies": _policies,
    "recording": _recording,
    "kv_events": _kv_events,
    "kv_follow": _kv_follow,
    "requests": _requests,
    "peers": _peers,
    "routing": _routing,
}
DEFAULT = ("tokens", "policies", "recording", "kv_events", "kv_follow", "requests")


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
