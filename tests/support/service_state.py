"""The state that an admin server shows, made by hand."""

from dataclasses import dataclass

from extproc.admin.state import ProcessStatus
from extproc.fleet.worker import Worker


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


@dataclass
class FakeState:
    fleet_generation: int = 0
    known: tuple[Worker, ...] = ()
    totals: list[int] | None = None
    process_rows: tuple[ProcessStatus, ...] = ()

    def workers(self) -> tuple[Worker, ...]:
        return self.known

    def in_flight(self) -> list[int]:
        return [0] * 16 if self.totals is None else self.totals

    def processes(self) -> tuple[ProcessStatus, ...]:
        return self.process_rows
