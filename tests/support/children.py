"""Children of the test itself, as the supervisor spawns them."""

from functools import partial
from pathlib import Path

from extproc.config.settings import Settings
from extproc.shm.processes import ProcessState, ProcessTable, Role
from extproc.shm.segment import Segment
from extproc.shm.worker_table import WorkerTable
from extproc.supervisor.nursery import Nursery
from extproc.supervisor.process import Cause, ChildProcess
from extproc.supervisor.seat import Seat
from tests.support.processes import wait_until
from tests.support.roles_for_tests import Event, events
from tests.support.supervised import settings_for

ROLES = "tests.support.roles_for_tests"


class Children:
    """A segment, a nursery and whatever was spawned; every role runs the entry last chosen."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config_file = directory / "case.json"
        self.segment = Segment.create()
        self.table = ProcessTable(self.segment)
        self.workers = WorkerTable(self.segment)
        self.settings = settings_for(directory)
        self.entries: dict[Role, str] = {}
        self.replaced: list[tuple[Role, Cause]] = []
        self._spawned: list[ChildProcess] = []
        self._seats: list[Seat] = []
        metrics = directory / "metrics"
        metrics.mkdir()
        self.nursery = Nursery(
            segment=self.segment,
            entries=self.entries,
            config_file=self.config_file,
            metrics_directory=metrics,
            shared_socket_fd=None,
        )

    @property
    def events(self) -> list[Event]:
        return events(self.config_file)

    def run_entry(self, name: str) -> None:
        """Choose what children run that are spawned from now on."""
        self.entries.update(dict.fromkeys(Role, f"{ROLES}:{name}"))

    def spawn(self, name: str, *, settings: Settings | None = None) -> ChildProcess:
        """Spawn a router that runs a role for tests."""
        self.run_entry(name)
        child = self.nursery.spawn(role=Role.ROUTER, index=0, settings=settings or self.settings)
        assert child is not None
        self._spawned.append(child)
        return child

    def seat(self, name: str, *, role: Role = Role.ROUTER, settings: Settings | None = None) -> Seat:
        """Make a seat that runs a role for tests."""
        self.run_entry(name)
        seat = Seat(
            role=role,
            index=0,
            settings=settings or self.settings,
            nursery=self.nursery,
            on_replaced=lambda role, cause: self.replaced.append((role, cause)),
        )
        self._seats.append(seat)
        return seat

    def pids(self, state: ProcessState) -> list[int]:
        return [row.pid for row in self.table.rows() if row.state is state]

    def close(self) -> None:
        for child in self._spawned:
            child.kill()
            wait_until(child.reap)
        for seat in self._seats:
            seat.stop()
            seat.kill()
            wait_until(partial(_emptied, seat))
        self.segment.close()


def _emptied(seat: Seat) -> bool:
    seat.tick(judge_heartbeats=False)
    return seat.empty
