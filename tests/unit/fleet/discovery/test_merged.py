import asyncio
import logging
from collections.abc import Callable

import pytest

from extproc.config.fleet import WorkerSpec
from extproc.config.load import Lists
from extproc.config.models import ModelSpec
from extproc.fleet.discovery import merged
from extproc.fleet.discovery.base import NamedSource
from extproc.fleet.discovery.merged import MergedSource
from extproc.telemetry.metrics import DiscoveryMetrics
from extproc.telemetry.tasks import spawn
from tests.support.discovery import ScriptedSource, counted, watching
from tests.support.workers_http import until

NEVER = 600.0
A, B, C, D = (f"10.0.0.{digit}:80" for digit in range(1, 5))


class Case:
    """Sources named ``s0``, ``s1`` and so on."""

    def __init__(self, count: int, *, timeout_secs: float, known: tuple[str, ...] = ()) -> None:
        self.metrics = DiscoveryMetrics()
        self.sources = [ScriptedSource() for _ in range(count)]
        self.merged = MergedSource(
            sources=[NamedSource(f"s{index}", source) for index, source in enumerate(self.sources)],
            known=Lists(tuple(WorkerSpec(address=address) for address in known)),
            first_report_timeout_secs=timeout_secs,
            metrics=self.metrics,
        )

    def faults(self, source: str, reason: str) -> float:
        return counted(self.metrics.faults, source=source, reason=reason)

    def reports(self, source: str) -> float:
        return counted(self.metrics.reports, source=source)


async def test_nothing_is_reported_before_every_source_has_enumerated() -> None:
    case = Case(3, timeout_secs=NEVER, known=(D,))
    async with watching(case.merged) as reports:
        case.sources[2].tell(C)
        case.sources[0].tell(A)
        await until(lambda: case.reports("s0") and case.reports("s2"))
        assert reports.lists == []
        case.sources[1].tell(B)
        await until(lambda: reports.lists)
        assert reports.addresses == [[A, B, C]]


async def test_every_change_gives_the_full_union() -> None:
    case = Case(2, timeout_secs=NEVER)
    async with watching(case.merged) as reports:
        case.sources[0].tell(A)
        case.sources[1].tell(B)
        await until(lambda: reports.last == [A, B])
        case.sources[1].tell(B, C)
        await until(lambda: reports.last == [A, B, C])
        case.sources[0].tell()
        await until(lambda: reports.last == [B, C])


async def test_after_the_time_what_there_is_is_reported_and_what_is_late_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    case = Case(3, timeout_secs=0.05)
    async with watching(case.merged) as reports:
        case.sources[0].tell(A)
        await until(lambda: reports.last == [A])
        assert [case.faults(name, "late") for name in ("s0", "s1", "s2")] == [0, 1, 1]
        assert [message.rpartition(": ")[2] for message in caplog.messages] == ["s1, s2"]
        case.sources[1].tell(B)
        await until(lambda: reports.last == [A, B])


async def test_when_no_source_has_enumerated_in_time_nothing_is_reported() -> None:
    case = Case(2, timeout_secs=0.0, known=(D,))
    async with watching(case.merged) as reports:
        await until(lambda: case.faults("s1", "late"))
        assert reports.lists == []
        case.sources[0].tell(A)
        await until(lambda: reports.lists)
        assert reports.addresses == [[A, D]]


async def test_what_was_known_stays_until_every_source_has_enumerated() -> None:
    case = Case(2, timeout_secs=0.0, known=(A, B, D))
    async with watching(case.merged) as reports:
        case.sources[0].tell(A, B)
        await until(lambda: reports.last == [A, B, D])
        case.sources[0].tell(A)
        await until(lambda: reports.last == [A, D])  # what a source has reported is its own to take away
        case.sources[1].tell(C)
        await until(lambda: reports.last == [A, C])


async def test_known_models_stay_too() -> None:
    metrics = DiscoveryMetrics()
    sources = [ScriptedSource(), ScriptedSource()]
    known = Lists(models=(ModelSpec(name="m"), ModelSpec(name="n")))
    joined = MergedSource(
        sources=[NamedSource("s0", sources[0]), NamedSource("s1", sources[1])],
        known=known,
        first_report_timeout_secs=0.0,
        metrics=metrics,
    )
    async with watching(joined) as reports:
        sources[0].tell_lists(Lists(models=(ModelSpec(name="n", block_size=32),)))
        await until(lambda: reports.lists)
        assert reports.lists[-1].models == (ModelSpec(name="n", block_size=32), ModelSpec(name="m"))
        sources[1].tell()
        await until(lambda: len(reports.lists[-1].models) == 1)


async def test_a_conflict_is_counted_and_told_once_for_as_long_as_it_lasts(caplog: pytest.LogCaptureFixture) -> None:
    case = Case(2, timeout_secs=NEVER)
    async with watching(case.merged) as reports:
        case.sources[0].tell(A)
        case.sources[1].tell(A, B)
        await until(lambda: reports.last == [A, B])
        case.sources[0].tell(A, C)
        await until(lambda: reports.last == [A, C, B])
        assert case.faults("s1", "conflict") == 1
        assert len(caplog.messages) == 1
        assert A in caplog.messages[0]
        case.sources[0].tell(C)
        await until(lambda: reports.last == [C, A, B])
        assert case.faults("s0", "conflict") == 0


async def test_without_another_source_the_only_one_is_passed_on() -> None:
    case = Case(1, timeout_secs=NEVER)
    async with watching(case.merged) as reports:
        case.sources[0].tell(A)
        await until(lambda: reports.addresses == [[A]])


async def test_what_a_source_raises_ends_it(caplog: pytest.LogCaptureFixture) -> None:
    """Sources that may fail are wrapped (RestartingSource); a fault of our own shall not pass unseen."""
    case = Case(2, timeout_secs=NEVER)
    caplog.set_level(logging.CRITICAL)
    task = spawn(case.merged.watch(lambda _: None), name="watch")
    await until(lambda: all(source.watching for source in case.sources))
    case.sources[1].fail(ValueError("oh"))
    await until(task.done)
    assert isinstance(task.exception(), ValueError)


class Stubborn:
    """A source that will not be cancelled before a test lets it go."""

    def __init__(self) -> None:
        self.free = asyncio.Event()

    async def watch(self, on_lists: Callable[[Lists], None]) -> None:
        while not self.free.is_set():
            try:
                await self.free.wait()
            except asyncio.CancelledError:
                on_lists(Lists())


async def test_a_source_that_does_not_end_keeps_nothing_from_ending(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged, "END_SECS", 0.05)
    stubborn = Stubborn()
    joined = MergedSource(
        sources=[NamedSource("stubborn", stubborn)],  # type: ignore[arg-type]
        known=Lists(),
        first_report_timeout_secs=NEVER,
        metrics=DiscoveryMetrics(),
    )
    async with watching(joined):
        await asyncio.sleep(0)
    assert caplog.messages == ["Task discover by stubborn does not end when it is told to"]
    stubborn.free.set()
    await until(lambda: len(asyncio.all_tasks()) == 1)
