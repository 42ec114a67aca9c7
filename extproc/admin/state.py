"""What the admin server shows, independent of where it is kept."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from extproc.fleet.worker import Worker
from extproc.index.prefix_index import IndexState
from extproc.shm.token_store import StoreState
from extproc.shm.worker_table import WorkerRow


@dataclasses.dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One process of the service at one moment.

    ``slot`` is its row in the process table; ``index`` passes on to the process that replaces it. ``state`` is what the
    process last said of itself, ``ready`` whether it is at its work. ``heartbeat_age_secs`` is the time since its event
    loop last ran. ``streams_active`` and ``streams_total`` are ext_proc streams open now and opened since it started;
    ``fleet_generation`` is the fleet it works with.
    """

    role: str
    index: int
    slot: int
    pid: int
    state: str
    ready: bool
    heartbeat_age_secs: float
    streams_active: int
    streams_total: int
    fleet_generation: int


class ServiceState(Protocol):
    """The service as the observer sees it; every call looks anew and must be cheap and safe from any thread."""

    @property
    def fleet_generation(self) -> int:
        """The published fleet's generation; 0 when there is none."""

    def workers(self) -> tuple[Worker, ...]:
        """Every known worker."""

    def in_flight(self) -> Sequence[int]:
        """Requests in flight by worker slot, over all processes."""

    def worker_row(self, slot: int) -> WorkerRow:
        """The load, engine and breaker of the worker in a slot."""

    def token_cache(self) -> StoreState | None:
        """How full the token cache is; None when there is none."""

    def prefix_index(self) -> IndexState:
        """How full the prefix index is."""

    def processes(self) -> Sequence[ProcessStatus]:
        """Every process that has a row in the process table."""
