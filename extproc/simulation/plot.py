"""A picture of the runs of several policies."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from extproc.simulation.results import Floats
from extproc.simulation.simulation import Run

BINS = 60
"""Parts of the time over which the hit rate is averaged."""
SIZE_INCHES = (9.0, 11.0)
DOTS_PER_INCH = 110


def draw(runs: Sequence[Run], path: Path, *, title: str) -> None:
    """Write a PNG: how times to first token are spread, and hit rate and imbalance over time."""
    with mpl.rc_context({"font.size": 9, "axes.grid": True, "grid.alpha": 0.3}):
        figure = Figure(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH, layout="constrained")
        figure.suptitle(title)
        first, second, third = figure.subplots(3, 1)
        _draw_first_tokens(first, runs)
        _draw_hit_rates(second, runs)
        _draw_imbalances(third, runs)
        figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=4)
        # The name of the library's version would make equal pictures differ.
        figure.savefig(path, format="png", metadata={"Software": None})


def _draw_first_tokens(axes: Axes, runs: Sequence[Run]) -> None:
    for run in runs:
        secs = np.sort(run.requests.floats("ttft"))
        axes.plot(secs, np.arange(1, len(secs) + 1) / len(secs), label=run.policy, linewidth=1.2)
    axes.set(xscale="log", xlabel="time to first token, s", ylabel="share of requests", ylim=(0, 1))


def _draw_hit_rates(axes: Axes, runs: Sequence[Run]) -> None:
    for run in runs:
        edges, rates = hit_rates(run, BINS)
        axes.plot(edges, rates, linewidth=1.2)
    axes.set(xlabel="time of the request, s", ylabel="prompt tokens cached", ylim=(0, 1))


def _draw_imbalances(axes: Axes, runs: Sequence[Run]) -> None:
    for run in runs:
        axes.plot(np.array(run.samples.times), run.samples.imbalance(), linewidth=0.8)
    axes.set(xlabel="time, s", ylabel="most requests at a worker / mean", ylim=(1, None))


def hit_rates(run: Run, bins: int) -> tuple[Floats, Floats]:
    """Return the middles of equal parts of the time, and the share of prompt tokens cached in each.

    The share is NaN where nothing was sent.
    """
    sent_at = run.requests.floats("sent_at")
    edges = np.linspace(0.0, max(float(sent_at.max(initial=0.0)), 1e-9), bins + 1)
    cached, _ = np.histogram(sent_at, edges, weights=run.requests.integers("cached"))
    tokens, _ = np.histogram(sent_at, edges, weights=run.requests.integers("prompt"))
    rates = np.divide(cached, tokens, out=np.full(bins, np.nan), where=tokens > 0)
    return (edges[:-1] + edges[1:]) / 2, rates
