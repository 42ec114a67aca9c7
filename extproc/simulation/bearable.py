"""How much of a load a service can bear."""

from collections.abc import Iterator

import numpy as np

from extproc.errors import ConfigurationError
from extproc.simulation.contenders import CONTENDERS
from extproc.simulation.loads.load import Load, Session
from extproc.simulation.loads.scaled import scaled
from extproc.simulation.simulation import Setting, Simulation

ENOUGH_REQUESTS = 20_000
AT_ONCE = 1e6
"""How many times faster than they would the sessions start: all at once."""
LEFT_OUT = 0.1
"""Share of the requests at the beginning and at the end, where not every worker has enough to do."""


def bearable_rate(load: Load, setting: Setting) -> float:
    """Return how many requests a second the workers get through by ``round_robin`` when more are always waiting.

    Measured on the beginning of the load, with all of its sessions started at once.
    """
    run = Simulation(
        load=scaled(_Beginning(load, ENOUGH_REQUESTS), AT_ONCE), setting=setting, contender=CONTENDERS["round_robin"]
    ).run()
    ends = np.sort(run.requests.floats("sent_at") + run.requests.floats("latency"))
    first, last = int(LEFT_OUT * len(ends)), int((1 - LEFT_OUT) * (len(ends) - 1))
    if last <= first:
        raise ConfigurationError(["a load of so few requests says nothing of what can be borne"])
    return (last - first) / max(float(ends[last] - ends[first]), 1e-9)


class _Beginning:
    """The first sessions of a load, with ``most`` requests or a few more."""

    def __init__(self, load: Load, most: int) -> None:
        self._load = load
        self._most = most
        self.name = load.name
        self.requests = min(load.requests, most)
        self.secs = load.secs

    def sessions(self) -> Iterator[Session]:
        """Give them."""
        taken = 0
        for session in self._load.sessions():
            if taken >= self._most:
                return
            taken += len(session.turns)
            yield session
