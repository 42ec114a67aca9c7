"""The same load in less time."""

import dataclasses
import math
from collections.abc import Iterator

import msgspec

from extproc.errors import ConfigurationError
from extproc.simulation.loads.load import MAX_SECS, Load, Session


def scaled(load: Load, speed_up: float) -> Load:
    """Return ``load`` with its sessions started ``speed_up`` times as fast; below 1 they start slower.

    Think times stay: with more users a service has more sessions at once, but nobody reads faster. Raises
    ``ConfigurationError`` if ``speed_up`` is no positive number, or so small
    that the load takes too long.
    """
    if not (math.isfinite(speed_up) and speed_up > 0):
        raise ConfigurationError([f"speed_up: must be a number above 0, not {speed_up}"])
    if load.secs / speed_up > MAX_SECS:
        raise ConfigurationError([f"speed_up: the load would take more than {MAX_SECS / 86_400:.0f} days"])
    return load if speed_up == 1 else _Scaled(load, speed_up)


@dataclasses.dataclass(frozen=True, slots=True)
class _Scaled:
    load: Load
    speed_up: float

    @property
    def name(self) -> str:
        return self.load.name

    @property
    def requests(self) -> int:
        return self.load.requests

    @property
    def secs(self) -> float:
        return self.load.secs / self.speed_up

    def sessions(self) -> Iterator[Session]:
        for session in self.load.sessions():
            yield msgspec.structs.replace(session, starts_at=session.starts_at / self.speed_up)
