"""What all built-in loads have in common: their size, their rate, and the check of their parameters."""

import abc
import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from extproc.config.catalogue import fields_of
from extproc.config.convert import from_file
from extproc.config.fault import Fault
from extproc.config.setting import setting
from extproc.errors import ConfigurationError
from extproc.simulation.loads.load import MAX_SECS, Session

MAX_REQUESTS = 10_000_000
MAX_RATE = 1_000_000
MAX_BEGINNINGS = 10_000
"""All beginnings of prompts that sessions share are made before the first session."""
SESSIONS_AT_ONCE = 1024
"""Random numbers are drawn for so many sessions together."""
FIRST_OWN_CONTENT = 1 << 32
"""Contents with smaller ids are shared by sessions."""


def mean_rate(default: float) -> Any:  # noqa: ANN401 - stands in for a field, as `setting` does
    """Declare the rate of a load."""
    return setting(default, "Requests a second, the mean over the whole load.", unit="1/s", low=1e-6, high=MAX_RATE)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BuiltInLoad(abc.ABC):
    """A load made from its parameters.

    Every parameter is a setting with its bounds, so that a command line can be derived from them
    (``extproc.config.catalogue.fields_of``). Raises ``ConfigurationError`` with all parameters that are out of bounds,
    each by its path ``NAME.PARAMETER``.
    """

    name: ClassVar[str]

    requests: int = setting(10_000, "Number of requests.", unit="requests", low=1, high=MAX_REQUESTS)
    rate: float = mean_rate(10.0)
    seed: int = setting(1, "Another seed gives another load of the same kind.", low=0)

    def __post_init__(self) -> None:
        faults = []
        for name, entry in fields_of(type(self), prefix=f"{self.name}.").items():
            try:
                from_file(getattr(self, name), entry)
            except ValueError as error:
                faults.append(f"{entry.path}: {error}")
        faults = faults or [str(fault) for fault in self._faults_between()]
        if faults:
            raise ConfigurationError(faults)

    @property
    def secs(self) -> float:
        """Span of the sessions' starts: what the requests take at their rate."""
        return self.requests / self.rate

    def _faults_between(self) -> list[Fault]:
        """Return what is wrong between parameters that are right by themselves."""
        if self.secs <= MAX_SECS:
            return []
        days = f"{MAX_SECS / 86_400:.0f} days"
        return [Fault(f"{self.name}.rate", f"is so low that {self.requests:,} requests take more than {days}")]

    @abc.abstractmethod
    def sessions(self) -> Iterator[Session]:
        """Give the sessions in the order of their starts."""

    def _generators(self, count: int) -> list[np.random.Generator]:
        """Return independent sources of randomness, so that one part of a load does not change with another."""
        return [np.random.default_rng((self.seed, place)) for place in range(count)]
