"""The service as it stands in shared memory, for the admin server."""

from collections.abc import Callable, Sequence
from time import monotonic, monotonic_ns

from extproc.admin.state import ProcessStatus
from extproc.fleet.worker import Worker
from extproc.index.prefix_index import IndexState, PrefixIndex
from extproc.shm.fleet import FleetDocument
from extproc.shm.processes import ProcessRow, ProcessState, ProcessTable
from extproc.shm.token_store import StoreState, TokenStore
from extproc.shm.worker_table import WorkerRow, WorkerTable

NS_PER_SEC = 1e9


class SharedState:
    """Reads the present at every call; see :class:`~extproc.admin.state.ServiceState`.

    ``workers`` returns the fleet as the observer last published it, which is what the document holds, decoded.
    """

    def __init__(
        self,
        *,
        document: FleetDocument,
        token_store: TokenStore | None,
        table: WorkerTable,
        prefixes: PrefixIndex,
        processes: ProcessTable,
        workers: Callable[[], tuple[Worker, ...]],
    ) -> None:
        self._document = document
        self._token_store = token_store
        self.prefix_index: Callable[[], IndexState] = prefixes.state
        self._processes = processes
        self._table = table
        self.in_flight: Callable[[], Sequence[int]] = table.in_flight
        self.workers: Callable[[], tuple[Worker, ...]] = workers

    @property
    def fleet_generation(self) -> int:
        """The published fleet's generation; 0 when there is none."""
        return self._document.generation

    def worker_row(self, slot: int) -> WorkerRow:
        """The load, engine and breaker of the worker in a slot."""
        return self._table.row(slot, now=monotonic())

    def token_cache(self) -> StoreState | None:
        """How full the token cache is; None when there is none."""
        return None if self._token_store is None else self._token_store.state()

    def processes(self) -> list[ProcessStatus]:
        """Every process that has a row in the process table."""
        now_ns = monotonic_ns()
        return [status for row in self._processes.rows() if (status := _status(row, now_ns)) is not None]


def _status(row: ProcessRow, now_ns: int) -> ProcessStatus | None:
    try:
        state, role = row.state, row.role
    except ValueError:
        # The supervisor has released the row since it was listed.
        return None
    return ProcessStatus(
        role=role.name.lower(),
        index=row.index,
        slot=row.slot,
        pid=row.pid,
        state=state.name.lower(),
        ready=state is ProcessState.READY,
        heartbeat_age_secs=max(0, now_ns - row.heartbeat_ns) / NS_PER_SEC,
        streams_active=row.active_streams,
        streams_total=row.total_streams,
        fleet_generation=row.fleet_generation,
    )
