import asyncio
import logging
from collections.abc import Callable

import pytest

from extproc.config.load import Lists
from extproc.errors import PluginUnusable
from extproc.fleet.discovery.base import Source
from extproc.fleet.discovery.restarting import RestartingSource
from extproc.fleet.discovery.retry import Retry
from extproc.telemetry.metrics import DiscoveryMetrics
from extproc.telemetry.tasks import spawn
from tests.support.discovery import ScriptedSource, Sleeps, counted, watching
from tests.support.workers_http import until

A, B = "10.0.0.1:80", "10.0.0.2:80"


class Case:
    """A source that is made anew; time is the test's."""

    def __init__(self, make: Callable[[], Source] | None = None) -> None:
        self.metrics = DiscoveryMetrics()
        self.made: list[ScriptedSource] = []
        self.sleeps = Sleeps()
        self.now = 0.0
        self.source = RestartingSource(
            name="plugin:x",
            make=make or self._make,
            retry=Retry(1.0, 8.0),
            metrics=self.metrics,
            sleep=self.sleeps,
            clock=lambda: self.now,
        )

    def _make(self) -> Source:
        self.made.append(ScriptedSource())
        return self.made[-1]

    def faults(self, reason: str) -> float:
        return counted(self.metrics.faults, source="plugin:x", reason=reason)

    async def waits(self) -> float:
        """Wait for the source to wait; returns for how long it will."""
        await until(lambda: self.sleeps.waits)
        (secs,) = self.sleeps.waits
        return secs


async def test_a_source_that_raises_is_made_again_and_its_workers_stay() -> None:
    case = Case()
    async with watching(case.source) as reports:
        await until(lambda: case.made)
        case.made[0].tell(A)
        case.made[0].fail(RuntimeError("oh"))
        assert await case.waits() == 1.0
        assert reports.addresses == [[A]]
        assert case.faults("failed") == 1
        case.sleeps.wake()
        await until(lambda: len(case.made) == 2)
        case.made[1].tell(B)
        await until(lambda: reports.last == [B])


async def test_waits_grow_with_every_failure_until_it_ran_well() -> None:
    case = Case()
    async with watching(case.source):
        for made, (ran_secs, wait_secs) in enumerate([(0, 1), (15, 2), (0, 4), (0, 8), (0, 8), (16, 1), (0, 2)]):
            await until(lambda made=made: len(case.made) == made + 1)  # type: ignore[misc]
            case.now += ran_secs
            case.made[made].fail(RuntimeError("oh"))
            assert await case.waits() == wait_secs
            case.sleeps.wake()
        assert case.faults("failed") == 7


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("oh"), "failed"),
        (SystemExit(3), "failed"),
        (asyncio.CancelledError(), "failed"),
        (PluginUnusable("not there"), "unusable"),
    ],
)
async def test_whatever_it_raises_is_survived(error: BaseException, reason: str) -> None:
    case = Case()
    async with watching(case.source):
        await until(lambda: case.made)
        case.made[0].fail(error)
        await case.waits()
        assert case.faults(reason) == 1


async def test_one_that_cannot_be_made_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    tries: list[Source] = []

    def make() -> Source:
        if not tries:
            tries.append(ScriptedSource())
            raise PluginUnusable("x: no package has it")
        return tries[0]

    case = Case(make)
    async with watching(case.source) as reports:
        await case.waits()
        assert caplog.messages == [
            "Discovery by plugin:x cannot begin, its workers stay; trying again in 1 s: x: no package has it"
        ]
        case.sleeps.wake()
        scripted = tries[0]
        assert isinstance(scripted, ScriptedSource)
        scripted.tell(A)
        await until(lambda: reports.last == [A])


class Ending:
    """Enumerates and returns, as no source may."""

    async def watch(self, on_lists: Callable[[Lists], None]) -> None:
        on_lists(Lists())


async def test_one_that_returns_is_made_again(caplog: pytest.LogCaptureFixture) -> None:
    case = Case(Ending)  # type: ignore[arg-type]
    async with watching(case.source):
        assert await case.waits() == 1.0
        assert case.faults("ended") == 1
        assert "ended, its workers stay" in caplog.text
        case.sleeps.wake()
        assert await case.waits() == 2.0


async def test_only_the_first_failure_in_a_row_has_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    case = Case()
    async with watching(case.source):
        for made in range(3):
            await until(lambda made=made: len(case.made) == made + 1)  # type: ignore[misc]
            case.made[made].fail(RuntimeError("oh"))
            await case.waits()
            case.sleeps.wake()
        assert [bool(record.exc_info) for record in caplog.records] == [True, False, False]


class Straggler:
    """Fails, and leaves a task behind that goes on reporting."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.go = asyncio.Event()

    async def watch(self, on_lists: Callable[[Lists], None]) -> None:
        async def later() -> None:
            await self.go.wait()
            on_lists(Lists())

        self.task = spawn(later(), name="later")
        raise RuntimeError("oh")


async def test_a_source_that_has_failed_reports_no_more(caplog: pytest.LogCaptureFixture) -> None:
    straggler = Straggler()
    case = Case(lambda: straggler)  # type: ignore[arg-type, return-value]
    caplog.set_level(logging.CRITICAL)
    async with watching(case.source) as reports:
        await case.waits()
        straggler.go.set()
        task = straggler.task
        assert task is not None
        await until(task.done)
        assert "successor" in str(task.exception())
        assert reports.lists == []


class Swallowing:
    """Takes a cancellation for a reason to return."""

    async def watch(self, on_lists: Callable[[Lists], None]) -> None:
        on_lists(Lists())
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return


async def test_ends_when_it_is_cancelled_whatever_the_source_makes_of_it() -> None:
    case = Case(Swallowing)  # type: ignore[arg-type]
    async with watching(case.source) as reports:
        await until(lambda: reports.lists)
    assert case.faults("ended") == 0
