"""Sources watched by a test: what they report, and what they count."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import NoReturn

from prometheus_client import CollectorRegistry, Counter

from extproc.config.fleet import WorkerSpec
from extproc.config.load import Lists
from extproc.config.model_list import find_model_faults
from extproc.config.workers import find_worker_faults
from extproc.fleet.discovery.base import Source
from extproc.telemetry.tasks import spawn


class Reports:
    """Everything that a source reported, in order; each report is checked as the contract has it."""

    def __init__(self) -> None:
        self.lists: list[Lists] = []
        self.reporters: set[asyncio.Task[object] | None] = set()

    def __call__(self, lists: Lists) -> None:
        assert find_worker_faults(lists.workers) == []
        assert find_model_faults(lists.models) == []
        self.reporters.add(asyncio.current_task())
        self.lists.append(lists)

    @property
    def addresses(self) -> list[list[str]]:
        """The addresses of each report."""
        return [[worker.address for worker in lists.workers] for lists in self.lists]

    @property
    def last(self) -> list[str] | None:
        """The addresses of the last report, None before the first."""
        return self.addresses[-1] if self.lists else None


@asynccontextmanager
async def watching(source: Source) -> AsyncIterator[Reports]:
    """Watch a source while the block runs; afterwards it has ended, and every report came from its own task."""
    reports = Reports()
    task = spawn(source.watch(reports), name="watch")
    try:
        yield reports
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert reports.reporters <= {task}


class ScriptedSource:
    """Reports what a test tells it to, and fails when told so."""

    def __init__(self) -> None:
        self._told: asyncio.Queue[Lists | BaseException] = asyncio.Queue()
        self.watching = False

    def tell(self, *addresses: str) -> None:
        self._told.put_nowait(Lists(tuple(WorkerSpec(address=address) for address in addresses)))

    def tell_lists(self, lists: Lists) -> None:
        self._told.put_nowait(lists)

    def fail(self, error: BaseException) -> None:
        self._told.put_nowait(error)

    async def watch(self, on_lists: Callable[[Lists], None]) -> NoReturn:
        self.watching = True
        while True:
            told = await self._told.get()
            if isinstance(told, BaseException):
                raise told
            on_lists(told)


class Sleeps:
    """Waits that end when a test says so; ``waits`` are the seconds of those that go on."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self._woken = asyncio.Event()

    async def __call__(self, secs: float) -> None:
        waits = self.waits
        waits.append(secs)
        try:
            await self._woken.wait()
        finally:
            waits.remove(secs)

    def wake(self) -> None:
        """End every wait that goes on."""
        self._woken.set()
        self._woken = asyncio.Event()
        self.waits = []


def counted(counter: Counter, **labels: str) -> float:
    """What a counter of ours has for these labels."""
    registry = CollectorRegistry()
    registry.register(counter)
    (family,) = counter.describe()
    return registry.get_sample_value(f"{family.name}_total", labels) or 0.0
