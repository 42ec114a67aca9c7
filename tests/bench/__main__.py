"""``make bench``: what a request costs, side by side in one run.

`requests` drives the real Envoy with ``wrk`` and prints, for each set-up and body size, the CPU microseconds per
request on our side and on Envoy's, requests per second and latency; it needs ``wrk`` (Debian package ``wrk``). `tokens`
prints what tokenizing a prompt costs. Ratios within one run are the result; absolute times belong to the machine.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

from tests.bench.report import print_bars, print_table
from tests.bench.scenarios import SCENARIOS, Idle, Result, measure_idle, measure_scenario
from tests.bench.tokens import measure_tokens, print_rows
from tests.bench.upstream import upstream

PARTS = ("tokens", "requests")
BODIES = {"600 B": 600, "32 KB": 32_000}


def main() -> int:
    """Measure what is asked for, or everything, and report medians; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument(
        "what", nargs="*", choices=PARTS, default=list(PARTS), help="what to measure (default: everything)"
    )
    parser.add_argument("--seconds", type=int, default=5, help="length of one measurement (default: 5)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds over all scenarios; medians count (default: 3)")
    parser.add_argument("--connections", type=int, default=16, help="client connections (default: 16)")
    arguments = parser.parse_args()
    parts = arguments.what
    missed = print_rows(measure_tokens()) if "tokens" in parts else 0
    if "requests" not in parts:
        return missed
    if shutil.which("wrk") is None:
        sys.stderr.write("wrk is not installed: apt-get install wrk\n")
        return 2
    results, idle = asyncio.run(_measure(arguments.seconds, arguments.rounds, arguments.connections))
    print_table(results)
    return max(missed, print_bars(results, idle))


async def _measure(seconds: int, rounds: int, connections: int) -> tuple[list[Result], Idle]:
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="extproc-bench-") as name:
        directory = Path(name)
        async with upstream(directory) as workers:
            for number in range(1, rounds + 1):
                for scenario in SCENARIOS:
                    place = directory / f"{number}-{scenario.key}"
                    place.mkdir()
                    results += await measure_scenario(
                        scenario,
                        bodies=BODIES,
                        workers=workers,
                        directory=place,
                        seconds=seconds,
                        connections=connections,
                    )
                    sys.stderr.write(f"round {number} of {rounds}: {scenario.name}\n")
            (directory / "idle").mkdir()
            idle = await measure_idle(workers=workers, directory=directory / "idle", seconds=max(seconds, 5))
    return results, idle


if __name__ == "__main__":
    sys.exit(main())
