"""What is told of the runs of several policies on one load: a table for people, and all numbers for programs."""

import msgspec

from extproc.simulation.contenders import ORACLE
from extproc.simulation.results import Times
from extproc.simulation.summary import Summary

_MS = 1e3
_HEADINGS = (
    "policy", "hit rate", "of ideal", "TTFT mean ms", "p50", "p90", "p99", "latency mean s", "p99 ", "req/s", "tok/s",
    "imbalance", "evictions", "preempted", "regret",
)  # fmt: skip


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The runs of several policies; ``load`` and ``setting`` say what was played against what."""

    load: dict[str, object]
    setting: dict[str, object]
    policies: tuple[Summary, ...]

    def regret(self, summary: Summary) -> float | None:
        """Return by which share a mean time to first token is above the oracle's; None without an oracle."""
        oracle = next((other for other in self.policies if other.policy == ORACLE), None)
        return None if oracle is None else summary.ttft.mean / oracle.ttft.mean - 1.0

    def table(self) -> str:
        """Return a Markdown table, the best mean time to first token first."""
        rows = [_HEADINGS, *(self._row(summary) for summary in sorted(self.policies, key=lambda row: row.ttft.mean))]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
        lines = [
            "| " + " | ".join(cell.ljust(width) if not at else cell.rjust(width) for at, (cell, width) in cells) + " |"
            for cells in (list(enumerate(zip(row, widths, strict=True))) for row in rows)
        ]
        rule = "|" + "|".join("-" * (width + 1) + (":" if at else "-") for at, width in enumerate(widths)) + "|"
        return "\n".join([lines[0], rule, *lines[1:]])

    def json(self) -> bytes:
        """Return everything as JSON: the same bytes for the same runs."""
        document = {
            "load": self.load,
            "setting": self.setting,
            "policies": [_flat(summary) | {"regret": self.regret(summary)} for summary in self.policies],
        }
        return msgspec.json.format(msgspec.json.encode(document, order="deterministic"), indent=2) + b"\n"

    def _row(self, summary: Summary) -> tuple[str, ...]:
        ttft, regret = summary.ttft, self.regret(summary)
        return (
            summary.policy,
            f"{summary.hit_rate:.1%}",
            f"{summary.of_ideal:.1%}",
            *(f"{secs * _MS:.1f}" for secs in ttft),
            f"{summary.latency.mean:.2f}",
            f"{summary.latency.p99:.2f}",
            f"{summary.requests_per_sec:.1f}",
            f"{summary.tokens_per_sec:.0f}",
            f"{summary.imbalance:.2f}",
            str(summary.evictions),
            str(summary.preemptions),
            "" if regret is None else f"{regret:+.1%}",
        )


def _flat(summary: Summary) -> dict[str, object]:
    values: dict[str, object] = summary._asdict()
    return {name: value._asdict() if isinstance(value, Times) else value for name, value in values.items()}
