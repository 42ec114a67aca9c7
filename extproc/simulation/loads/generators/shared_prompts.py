"""``shared_prompts``: one service for many tenants."""

import dataclasses
from typing import ClassVar

from extproc.simulation.loads.generators.base import mean_rate
from extproc.simulation.loads.generators.draws import Floats, Generator, Ints, Zipf, poisson_starts
from extproc.simulation.loads.generators.tenants import TenantLoad


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SharedPrompts(TenantLoad):
    """More system prompts than one engine can keep, a few of them asked for most of the time, at an even rate."""

    name: ClassVar[str] = "shared_prompts"

    rate: float = mean_rate(30.0)

    def _arrivals(self, rng: Generator, popular: Zipf) -> tuple[Floats, Ints]:
        return poisson_starts(rng, self.requests, self.secs), popular.draw(rng, self.requests)
