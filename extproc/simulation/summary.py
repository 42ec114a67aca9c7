"""What a run comes to: one number each."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from extproc.simulation.results import Times, times
from extproc.simulation.simulation import Run
from workers.engine.profile import Profile


class Summary(NamedTuple):
    """One policy on one load.

    ``hit_rate`` is the share of prompt tokens that were cached where the request went, ``of_ideal`` that share over
    what one boundless cache for the whole fleet would have had, ``ideal_hit_rate``. ``ttft`` and ``latency`` are the
    times to the first and to the last token. ``tokens_per_sec`` counts generated tokens, ``imbalance`` is the largest
    number of requests at a worker over the mean, averaged over time. ``least_ttft_secs`` is the mean time to the first
    token if every request had an engine of its own with the ideal cache: nothing can be below. ``overestimate`` is how
    many tokens more than were there the policy took to be cached, as a share of all prompt tokens; None for those that
    do not look.
    """

    policy: str
    requests: int
    hit_rate: float
    ideal_hit_rate: float
    of_ideal: float
    ttft: Times
    latency: Times
    requests_per_sec: float
    tokens_per_sec: float
    imbalance: float
    evictions: int
    preemptions: int
    least_ttft_secs: float
    overestimate: float | None
    busy_share: float


def summarize(run: Run, *, profile: Profile, workers: int) -> Summary:
    """Sum up a run."""
    requests = run.requests
    prompt, cached = requests.integers("prompt"), requests.integers("cached")
    ideal, matched = requests.integers("ideal"), requests.integers("matched")
    tokens = max(int(prompt.sum()), 1)
    hit_rate, ideal_hit_rate = float(cached.sum()) / tokens, float(ideal.sum()) / tokens
    over = np.maximum(matched - cached, 0)[matched >= 0]
    return Summary(
        policy=run.policy,
        requests=len(requests),
        hit_rate=hit_rate,
        ideal_hit_rate=ideal_hit_rate,
        of_ideal=hit_rate / ideal_hit_rate if ideal_hit_rate else 1.0,
        ttft=times(requests.floats("ttft")),
        latency=times(requests.floats("latency")),
        requests_per_sec=len(requests) / max(run.secs, 1e-9),
        tokens_per_sec=float(requests.integers("answer").sum()) / max(run.secs, 1e-9),
        imbalance=float(run.samples.imbalance().mean()),
        evictions=run.evictions,
        preemptions=run.preemptions,
        least_ttft_secs=_least_ttft_secs(profile, prompt, ideal),
        overestimate=float(over.sum()) / tokens if len(over) else None,
        busy_share=run.busy_secs / max(run.secs * workers, 1e-9),
    )


def _least_ttft_secs(profile: Profile, prompt: npt.NDArray[np.int64], ideal: npt.NDArray[np.int64]) -> float:
    pairs = zip(prompt.tolist(), ideal.tolist(), strict=True)
    return float(np.mean([profile.lone_ttft_secs(tokens, cached) for tokens, cached in pairs]))
