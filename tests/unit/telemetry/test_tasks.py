import asyncio
import contextlib

import pytest

from extproc.telemetry.tasks import spawn


async def ends() -> int:
    return 1


async def fails() -> None:
    raise ValueError("broken")


async def test_a_result_is_returned_and_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert await spawn(ends(), name="short") == 1
    await asyncio.sleep(0)
    assert caplog.text == ""


async def test_a_failure_is_logged_even_when_nobody_awaits(caplog: pytest.LogCaptureFixture) -> None:
    task = spawn(fails(), name="worn out")
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert "worn out failed" in caplog.text
    assert "ValueError: broken" in caplog.text


async def test_an_eternal_task_that_ends_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    await spawn(ends(), name="for ever", eternal=True)
    await asyncio.sleep(0)
    assert "for ever ended" in caplog.text


async def test_a_cancelled_task_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    task = spawn(asyncio.sleep(60), name="stopped", eternal=True)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert caplog.text == ""
