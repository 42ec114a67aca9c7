"""Roles that are nothing but their behaviour: what a supervisor's children can do to it.

Each is run as a real child. They note what happens in ``events`` beside the configuration file, one line an event.
"""

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

from extproc.errors import StartupError
from extproc.shm.worker_table import WorkerTable
from extproc.supervisor.boot import EXIT_FAULT, ChildBoot
from extproc.supervisor.lifecycle import ChildLifecycle
from extproc.telemetry.metrics import Metrics

BROKEN = "broken"
"""Settings with this ``routing.policy`` make :func:`serve` fail to start."""


class Event(NamedTuple):
    """Something that happened to a child."""

    what: str
    name: str
    pid: int


def note(boot: ChildBoot, what: str) -> None:
    with boot.config_file.with_name("events").open("a") as file:
        file.write(f"{what} {boot.name} {os.getpid()}\n")


def events(config_file: Path) -> list[Event]:
    """What the children of a configuration noted, in order; a line being written is left out."""
    file = config_file.with_name("events")
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    fields = (line.split() for line in lines if line.endswith("\n"))
    return [Event(what, name, int(pid)) for what, name, pid in fields]


def starts(boot: ChildBoot) -> int:
    """How often this place of the service has noted a start."""
    return sum(event[:2] == ("start", boot.name) for event in events(boot.config_file))


def serve(boot: ChildBoot) -> int:
    """Behave well; SIGUSR1 makes the event loop stand still."""
    note(boot, "start")
    if boot.settings.routing.policy == BROKEN:
        raise StartupError("broken by the test")
    asyncio.run(_serve(boot))
    note(boot, "end")
    return 0


async def _serve(boot: ChildBoot) -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, time.sleep, 600)
    async with ChildLifecycle(boot) as life:
        WorkerTable(life.segment).column(boot.slot).add(0, requests=1)
        Metrics().requests.labels(outcome="routed").inc()
        note(boot, "ready")
        life.ready()
        await life.stop.wait()
        note(boot, "stop")


def cannot_start(boot: ChildBoot) -> int:
    """Fail in a way that starting again would not help."""
    note(boot, "start")
    raise StartupError("the address is taken")


def fault(boot: ChildBoot) -> int:
    """Fail as by a bug, at once."""
    note(boot, "start")
    raise RuntimeError("a bug")


def fault_at_first(boot: ChildBoot) -> int:
    """Fail as by a bug the first three times, then behave."""
    if starts(boot) < 3:
        return fault(boot)
    return serve(boot)


def never_ready(boot: ChildBoot) -> int:
    """Live, beat, and never become ready; the first time only."""
    note(boot, "start")
    if starts(boot) > 1:
        return serve(boot)
    return asyncio.run(_wait_for_ever(boot))


def never_ready_at_all(boot: ChildBoot) -> int:
    """Live, beat, and never become ready."""
    return asyncio.run(_wait_for_ever(boot))


def returns_seven(boot: ChildBoot) -> int:
    """Do nothing, and end with an exit code of its own."""
    return 7


async def _wait_for_ever(boot: ChildBoot) -> int:
    async with ChildLifecycle(boot):
        await asyncio.Event().wait()
    return EXIT_FAULT


def deaf(boot: ChildBoot) -> int:
    """Become ready, and never stop when told to."""
    return asyncio.run(_deaf(boot))


async def _deaf(boot: ChildBoot) -> int:
    async with ChildLifecycle(boot) as life:
        life.ready()
        note(boot, "ready")
        await asyncio.Event().wait()
    return EXIT_FAULT


def failing_lifecycle(boot: ChildBoot) -> int:
    """Fail as by a bug after becoming ready."""
    return asyncio.run(_failing_lifecycle(boot))


async def _failing_lifecycle(boot: ChildBoot) -> int:
    async with ChildLifecycle(boot) as life:
        life.ready()
        raise RuntimeError("a bug")


def ready_too_late(boot: ChildBoot) -> int:
    """Say ready after having been told to stop."""
    return asyncio.run(_ready_too_late(boot))


async def _ready_too_late(boot: ChildBoot) -> int:
    async with ChildLifecycle(boot) as life:
        note(boot, "listening")
        await life.stop.wait()
        life.ready()
        return 0
