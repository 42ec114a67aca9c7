"""The state that an admin server shows, made by hand."""

from dataclasses import dataclass

from extproc.admin.state import ProcessStatus
from extproc.fleet.worker import Worker
from extproc.index.prefix_index import IndexState
from extproc.shm.token_store import StoreState
from extproc.shm.worker_table import Engine, Outcome, WorkerRow

ENGINE = [number.name.lower() for number in Engine]
OUTCOME = [number.name.lower() for number in Outcome]


def process(role: str, index: int, *, slot: int = 0, ready: bool = True) -> ProcessStatus:
    """A process with round figures."""
    return ProcessStatus(
        role=role,
        index=index,
        slot=slot,
        pid=1000 + index,
        state="ready" if ready else "starting",
        ready=ready,
        heartbeat_age_secs=0.5,
        streams_active=2,
        streams_total=200,
        fleet_generation=4,
    )


def token_cache() -> StoreState:
    """A cache with round figures."""
    return StoreState(capacity_bytes=1000, used_bytes=500, rows=7, max_rows=64, evictions=3)


@dataclass
class FakeState:
    fleet_generation: int = 0
    known: tuple[Worker, ...] = ()
    totals: list[int] | None = None
    process_rows: tuple[ProcessStatus, ...] = ()
    cache: StoreState | None = None

    def token_cache(self) -> StoreState | None:
        return self.cache

    def workers(self) -> tuple[Worker, ...]:
        return self.known

    def in_flight(self) -> list[int]:
        return [0] * 16 if self.totals is None else self.totals

    def worker_row(self, slot: int) -> WorkerRow:
        requests = self.in_flight()[slot]
        return WorkerRow(requests, 0.0, 0, dict.fromkeys(ENGINE, 0.0), dict.fromkeys(OUTCOME, 0.0))

    def prefix_index(self) -> IndexState:
        return IndexState(capacity_blocks=8, blocks=3)

    def processes(self) -> tuple[ProcessStatus, ...]:
        return self.process_rows
