"""``bursts``: all at once, then nobody."""

from collections import Counter

import numpy as np
import pytest

from extproc.errors import ConfigurationError
from extproc.simulation.loads.generators.bursts import Bursts


def bursts_of(load: Bursts) -> list[list[tuple[float, str]]]:
    """The requests, parted wherever nobody came for half a second."""
    parts: list[list[tuple[float, str]]] = []
    last = -1.0
    for session in load.sessions():
        if session.starts_at - last > 0.5:
            parts.append([])
        parts[-1].append((session.starts_at, session.key))
        last = session.starts_at
    return parts


def test_requests_come_in_bursts_with_quiet_times_between() -> None:
    load = Bursts(requests=20_000, rate=20.0)
    bursts = bursts_of(load)
    assert 80 <= len(bursts) <= 100  # of 100, a few follow each other at once
    rates = [len(burst) / (burst[-1][0] - burst[0][0]) for burst in bursts]
    assert abs(np.median(rates) / 100.0 - 1) < 0.05
    assert abs(np.median([burst[-1][0] - burst[0][0] for burst in bursts]) - 2.0) < 0.1


def test_most_of_a_burst_belongs_to_one_tenant() -> None:
    shares = []
    tenants = Counter[str]()
    for burst in bursts_of(Bursts(requests=20_000, rate=20.0)):
        keys = Counter(key for _, key in burst)
        tenants += keys
        shares.append(keys.most_common()[0][1] / len(burst))
    assert 0.75 < np.median(shares) < 0.9
    assert len(tenants) == 20


@pytest.mark.parametrize("height", [1.0, 2.0, 50.0])
def test_the_mean_rate_is_kept_at_any_height(height: float) -> None:
    load = Bursts(requests=5000, rate=10.0, height=height)
    starts = [session.starts_at for session in load.sessions()]
    assert load.secs == 500.0
    assert starts[-1] <= 500.0 + 1e-6
    assert len({int(start / 50.0) for start in starts}) >= (10 if height < 3 else 5)


def test_there_are_not_more_bursts_than_can_be_counted() -> None:
    with pytest.raises(ConfigurationError, match=r"bursts\.burst_secs: is so short that there are more than"):
        Bursts(requests=100_000, rate=0.01, burst_secs=0.001)
