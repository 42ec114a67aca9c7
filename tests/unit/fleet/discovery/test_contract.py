"""What every source promises, tried on every kind of source over the real thing that it reads.

That a report is in order, and comes from the task that runs ``watch``, is checked for each report of each case.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.discovery import watching
from tests.support.discovery_stages import KINDS, Stage, staged
from tests.support.workers_http import until

A, B, C = "10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"


@pytest.fixture(params=KINDS)
async def stage(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Stage]:
    async with staged(request.param, tmp_path, monkeypatch) as made:
        yield made


async def test_enumerates_everything_first(stage: Stage) -> None:
    stage.offer(A, B, C)
    async with watching(stage.source) as reports:
        await until(lambda: reports.lists)
        assert reports.addresses == [[A, B, C]]


async def test_each_change_gives_the_full_list(stage: Stage) -> None:
    stage.offer(A, B)
    async with watching(stage.source) as reports:
        await until(lambda: reports.last == [A, B])
        stage.offer(A, B, C)
        await until(lambda: reports.last == [A, B, C])
        stage.offer(C)
        await until(lambda: reports.last == [C])


async def test_all_workers_can_go(stage: Stage) -> None:
    stage.offer(A, B)
    async with watching(stage.source) as reports:
        await until(lambda: reports.last == [A, B])
        stage.offer()
        await until(lambda: reports.last == [])
        stage.offer(B)
        await until(lambda: reports.last == [B])


async def test_there_may_be_no_worker_at_first(stage: Stage) -> None:
    stage.offer()
    async with watching(stage.source) as reports:
        await until(lambda: reports.lists)
        assert reports.addresses == [[]]


async def test_what_cannot_be_read_changes_nothing_and_is_read_again_later(stage: Stage) -> None:
    stage.offer(A, B)
    async with watching(stage.source) as reports:
        await until(lambda: reports.last == [A, B])
        before = stage.faults()
        stage.break_it()
        await until(lambda: stage.faults() > before)
        assert reports.last == [A, B]
        stage.offer(A, C)
        await until(lambda: reports.last == [A, C])
        assert [] not in reports.addresses


async def test_reports_nothing_before_anything_can_be_read(stage: Stage) -> None:
    stage.break_it()
    async with watching(stage.source) as reports:
        await until(lambda: stage.faults() >= 1)
        assert reports.lists == []
        stage.offer(A, B)
        await until(lambda: reports.last == [A, B])


async def test_leaves_nothing_behind_when_it_is_cancelled(stage: Stage) -> None:
    stage.offer(A)
    before = asyncio.all_tasks()
    async with watching(stage.source) as reports:
        await until(lambda: reports.lists)
    await until(lambda: asyncio.all_tasks() == before)
    count = len(reports.lists)
    stage.offer(B)
    await asyncio.sleep(0.1)
    assert len(reports.lists) == count
