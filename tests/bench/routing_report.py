"""The report on routing: ratios first, then what was measured, as Markdown and as JSON, and the bar."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.gateways import Contender
from tests.bench.routing import CONTENDERS, ENGINES, LOADS, OURS, PROFILE, RIVAL, Outcome, of
from tests.bench.rows import Row

P99_RATIO_BAR = 1.0
BAR_LOAD = "shared_prompts"
ROUND_ROBIN = next(one for one in CONTENDERS if one.key == "round_robin")

Measure = Callable[[Outcome], float]
TTFT: dict[str, Measure] = {
    "mean": lambda outcome: outcome.mean,
    "p50": lambda outcome: outcome.quantile(0.5),
    "p99": lambda outcome: outcome.quantile(0.99),
}
"""What is told of times to first token, in seconds."""

_INTRODUCTION = (
    f"{ENGINES} simulated engines ({PROFILE}), each load in real time, engines and gateway started anew for each"
    " contender. Ratios are to {base}, taken within a round; below 1 is sooner. Medians over rounds: {rounds}."
)
_TITLES = (
    *("contender", "mean ratio", "p50 ratio", "p99 ratio", "hit rate", "spread", "failed"),
    *("TTFT mean ms", "p50 ms", "p99 ms", "CPU ms", "engines", "late ms"),
)
_MEANINGS = (
    "TTFT: from the moment when the client is due to send to the first token that it has. Hit rate: share of prompt"
    " tokens that engines had cached. Spread: requests of the busiest engine to the mean. CPU: of the gateway's"
    " processes, per request. Engines: share of a core that simulating them took; near 1, or with a late client, times"
    " are those of this machine and not of the engines. Late: the most by which a session began after its time."
)


def routing_rows(outcomes: Sequence[Outcome]) -> Iterator[Row]:
    """Give failures, of which there must be none, and the bar against every other gateway that has played that load."""
    failures = sum(len(one.played.failures) for one in outcomes)
    yield Row("failed requests, all contenders and loads", f"{failures}", "0", failures == 0)
    for peer in (one for one in CONTENDERS if one.gateway is not None):
        if any(of(outcomes, BAR_LOAD, OURS)) and any(of(outcomes, BAR_LOAD, peer)):
            ratio = _ratio(outcomes, BAR_LOAD, OURS, peer, TTFT["p99"])
            what = f"p99 TTFT, shared prompts, expected_latency to {peer.name}"
            yield Row(what, f"{ratio:.2f}x", f"≤ {P99_RATIO_BAR:g}x", ratio <= P99_RATIO_BAR)


def markdown(outcomes: Sequence[Outcome]) -> str:
    """Write a table for every load, and what its columns mean."""
    base = _base(outcomes)
    loads = dict.fromkeys(one.load for one in outcomes)
    return "\n\n".join(
        [
            "# Side by side",
            _INTRODUCTION.format(base=base.name, rounds=1 + max(one.number for one in outcomes)),
            *(_table(outcomes, load, base) for load in loads),
            _MEANINGS,
        ]
    )


def write_report(outcomes: Sequence[Outcome], out: Path) -> None:
    """Write ``report.md`` and ``report.json`` to a folder, which is made where it is missing."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.md").write_text(f"{markdown(outcomes)}\n")
    document = {
        "engines": ENGINES,
        "profile": PROFILE,
        "ratios_to": _base(outcomes).key,
        "outcomes": [_document(outcomes, one) for one in outcomes],
    }
    (out / "report.json").write_text(json.dumps(document, indent=1) + "\n")


def _table(outcomes: Sequence[Outcome], load: str, base: Contender) -> str:
    first = next(one for one in outcomes if one.load == load)
    requests = len(first.played.ttft_secs) + len(first.played.failures)
    lines = [
        f"## {load}: {requests} requests, sessions start over {LOADS[load].secs:.0f} s\n",
        f"| {' | '.join(_TITLES)} |",
        "| --- " + "| ---: " * (len(_TITLES) - 1) + "|",
    ]
    for contender in (one for one in CONTENDERS if any(of(outcomes, load, one))):
        ran = list(of(outcomes, load, contender))
        ratios = [f"{_ratio(outcomes, load, contender, base, measure):.2f}x" for measure in TTFT.values()]
        cells = [
            contender.name,
            *ratios,
            f"{median(one.hit_rate for one in ran):.1%}",
            f"{median(one.spread for one in ran):.2f}",
            f"{sum(len(one.played.failures) for one in ran)}",
            *(f"{median(map(measure, ran)) * 1e3:.0f}" for measure in TTFT.values()),
            f"{median(one.gateway_cpu_secs for one in ran) * 1e3:.1f}",
            f"{median(one.engines_core for one in ran):.2f}",
            f"{max(max(one.played.late_secs, default=0.0) for one in ran) * 1e3:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _document(outcomes: Sequence[Outcome], one: Outcome) -> dict[str, Any]:
    base = next((other for other in of(outcomes, one.load, _base(outcomes)) if other.number == one.number), one)
    return {
        "load": one.load,
        "contender": one.contender.key,
        "name": one.contender.name,
        "round": one.number,
        "ttft_ratio": {name: measure(one) / measure(base) for name, measure in TTFT.items()},
        "ttft_secs": {name: measure(one) for name, measure in TTFT.items()},
        "answers": len(one.played.ttft_secs),
        "failures": one.played.failures,
        "prompt_tokens": one.played.prompt_tokens,
        "cached_tokens": one.played.cached_tokens,
        "hit_rate": one.hit_rate,
        "spread": one.spread,
        "gateway_cpu_secs": one.gateway_cpu_secs,
        "engines_core": one.engines_core,
        "late_secs": max(one.played.late_secs, default=0.0),
        "secs": one.played.secs,
    }


def _ratio(outcomes: Sequence[Outcome], load: str, one: Contender, base: Contender, measure: Measure) -> float:
    return median(
        measure(ours) / measure(theirs)
        for ours in of(outcomes, load, one)
        for theirs in of(outcomes, load, base)
        if ours.number == theirs.number
    )


def _base(outcomes: Sequence[Outcome]) -> Contender:
    """Return whom ratios are to: the other gateway, or round robin where it is not installed."""
    return RIVAL if any(one.contender is RIVAL for one in outcomes) else ROUND_ROBIN
