"""A supervisor as a process of its own, with roles made for tests.

Run as a module it is that process: it reads a case from the file named on its command line and serves.
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from extproc.config.handover import settings_from_json, settings_to_json
from extproc.config.settings import Settings
from extproc.errors import ConfigurationError
from extproc.shm.processes import ProcessState, ProcessTable, Role
from extproc.shm.segment import Segment
from extproc.supervisor.supervisor import serve
from tests.support.processes import alive, children, environment, wait_until
from tests.support.roles_for_tests import Event, events

SERVE = "tests.support.roles_for_tests:serve"


def settings_for(directory: Path, **groups: Mapping[str, object]) -> Settings:
    """Settings for quick tests, run directory included; ``groups`` change single values."""
    document: dict[str, Any] = settings_to_json(Settings())
    document["supervisor"].update(
        routers=2, run_dir=str(directory / "run"), heartbeat_interval_secs=0.05, restart_backoff_secs=0.01
    )
    document["server"].update(drain_timeout_secs=2.0)
    for name, values in groups.items():
        document[name].update(values)
    return settings_from_json(document)


class Supervised:
    """A running supervisor, looked at from outside."""

    def __init__(self, *, directory: Path, settings: Settings, entries: Mapping[Role, str]) -> None:
        self.settings = settings
        self.run_dir = Path(settings.supervisor.run_dir)
        self.config_file = directory / "case.json"
        self.log_file = directory / "log"
        self.entries = {Role.ROUTER: SERVE, Role.OBSERVER: SERVE, **entries}
        self.offer(settings)
        with self.log_file.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.supervised", str(self.config_file)], stderr=log, env=environment()
            )

    def offer(self, settings: Settings | None = None, *, faults: tuple[str, ...] = ()) -> None:
        """Write the configuration that is read at the start and on SIGHUP: settings, or faults."""
        case = {
            "settings": settings_to_json(settings or self.settings),
            "entries": {role.name: entry for role, entry in self.entries.items()},
            "faults": faults,
        }
        temporary = self.config_file.with_suffix(".tmp")
        temporary.write_text(json.dumps(case))
        temporary.replace(self.config_file)

    def change(self, group: str, **values: object) -> None:
        """Offer settings in which one group has other values."""
        changed = dataclasses.replace(getattr(self.settings, group), **values)
        self.offer(dataclasses.replace(self.settings, **{group: changed}))

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    @property
    def events(self) -> list[Event]:
        return events(self.config_file)

    def wait_for_log(self, text: str, *, times: int = 1) -> None:
        wait_until(lambda: self.log.count(text) >= times, why=lambda: f"{text!r} in the log:\n{self.log}")

    def wait_ready(self) -> None:
        self.wait_for_log(": ready: ")

    def segment(self) -> Segment:
        """The shared memory, opened through the supervisor's descriptor."""
        for link in Path(f"/proc/{self.process.pid}/fd").iterdir():
            if str(link.readlink()).startswith("/memfd:extproc"):
                return Segment.attach(os.open(link, os.O_RDWR))
        raise AssertionError("the supervisor has no segment")

    def ready_pids(self) -> dict[str, int]:
        """The pids of the ready children by role and index, from the process table."""
        rows = ProcessTable(self.segment()).rows()
        return {
            f"{row.role.name.lower()}-{row.index}": row.pid
            for row in rows
            if row.state is ProcessState.READY and row.role is not Role.SUPERVISOR
        }

    def children(self) -> list[int]:
        return children(self.process.pid)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end and return its exit code."""
        wait_until(lambda: self.process.poll() is not None, why=lambda: f"the supervisor has not ended:\n{self.log}")
        return self.process.returncode


@contextmanager
def supervised(
    directory: Path, *, entries: Mapping[Role, str] | None = None, **groups: Mapping[str, object]
) -> Iterator[Supervised]:
    """Run a supervisor; at the end it and whatever it has started are gone, however the test went."""
    service = Supervised(directory=directory, settings=settings_for(directory, **groups), entries=entries or {})
    try:
        yield service
    finally:
        pids = service.children()
        service.process.kill()
        service.process.wait()
        for pid in pids:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


def main(config_file: Path) -> int:
    """Be the supervisor."""
    entries = {Role[name]: entry for name, entry in json.loads(config_file.read_text())["entries"].items()}

    def reload() -> Settings:
        case = json.loads(config_file.read_text())
        if case["faults"]:
            raise ConfigurationError(case["faults"])
        return settings_from_json(case["settings"])

    return serve(reload(), config_file=config_file, reload=reload, entries=entries)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
