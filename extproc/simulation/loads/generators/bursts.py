"""``bursts``: tenants who come all at once, and then nobody."""

import dataclasses
import math
from typing import ClassVar

import numpy as np

from extproc.config.fault import Fault
from extproc.config.setting import setting
from extproc.simulation.loads.generators.base import MAX_BEGINNINGS, MAX_REQUESTS, mean_rate
from extproc.simulation.loads.generators.draws import Floats, Generator, Ints, Zipf, poisson_starts
from extproc.simulation.loads.generators.tenants import TenantLoad


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bursts(TenantLoad):
    """Few tenants, and an on/off process: bursts far above the mean rate, with quiet times of random length between.

    Each burst has one tenant to whom most of its requests belong, drawn by the Zipf law as the others are.
    """

    name: ClassVar[str] = "bursts"

    rate: float = mean_rate(12.0)
    tenants: int = setting(20, "Tenants there are.", low=1, high=MAX_BEGINNINGS)
    height: float = setting(5.0, "Rate in a burst, in mean rates.", low=1, high=1_000)
    burst_secs: float = setting(2.0, "Length of a burst.", unit="s", low=0.001, high=3_600)
    dominance: float = setting(
        0.8, "Share of a burst's requests that belong to its own tenant; the rest comes from any.", low=0, high=1
    )

    @property
    def bursts(self) -> int:
        """Number of bursts; the last one may be cut short."""
        return math.ceil(self.secs / self.height / self.burst_secs)

    def _faults_between(self) -> list[Fault]:
        faults = super(
            Bursts, self
        )._faults_between()  # a class with slots is made anew, and `super()` does not know it
        if self.bursts > MAX_REQUESTS:
            faults.append(Fault("bursts.burst_secs", f"is so short that there are more than {MAX_REQUESTS:,} bursts"))
        return faults

    def _arrivals(self, rng: Generator, popular: Zipf) -> tuple[Floats, Ints]:
        """Draw arrivals within the bursts as if these followed each other, then put the quiet times between them."""
        busy_secs = self.secs / self.height
        bursts = self.bursts
        quiet = rng.exponential(size=bursts)
        quiet *= (self.secs - busy_secs) / quiet.sum()
        within = poisson_starts(rng, self.requests, busy_secs)
        burst = np.minimum((within / self.burst_secs).astype(np.int64), bursts - 1)
        starts = within + (np.cumsum(quiet) - quiet)[burst]
        favourite, anyone = popular.draw(rng, bursts)[burst], popular.draw(rng, self.requests)
        return starts, np.where(rng.random(self.requests) < self.dominance, favourite, anyone)
