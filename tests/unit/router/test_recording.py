"""A router's records reach the disk beside its requests, and whatever is wrong there costs no request."""

import asyncio
import os
from pathlib import Path

import pytest

from extproc.policies.base import Choice, Reason
from extproc.recording.record import Closing, Recorded, read_frames
from extproc.recording.recorder import Recorder
from extproc.router.recording import RecordKeeper
from extproc.shm.processes import ProcessTable
from extproc.shm.recording import RecordingOrder
from extproc.telemetry.metrics import Metrics
from extproc.telemetry.tasks import spawn
from tests.support.fleets import Shared, prompt, request_with, workers
from tests.support.recordings import order
from tests.support.waiting import until

NS = 1_000_000_000


class Bench:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.shared = Shared()
        self.row = ProcessTable(self.shared.segment).row(3)
        self.order = RecordingOrder(self.shared.segment)
        self.metrics = Metrics()
        self.accounts = self.shared.accounts()
        self.recorder = Recorder(
            order=self.order,
            table=self.shared.table,
            clock=self.shared.clock,
            assumed_answer_tokens=256,
            on_begun=self.row.begin_recording,
        )
        self.keeper = RecordKeeper(recorder=self.recorder, directory=directory, row=self.row, metrics=self.metrics)

    def begin(self, number: int = 7) -> None:
        self.order.give(order(number, until_ns=int((self.shared.clock.now + 60) * NS)))

    def route(self, count: int = 1) -> None:
        for _ in range(count):
            request, choice = request_with(prompt(100)), Choice(workers(1), Reason.RANDOM)
            arrived = self.recorder.began()
            flight = self.accounts.start(request, choice, record=False)
            self.recorder.chosen(request, choice, policy="random", flight=flight, arrived=arrived)
            self.accounts.finish(flight)

    def counted(self, result: str) -> float:
        return float(self.metrics.recorded_requests.labels(result)._value.get())

    def entries(self) -> list[object]:
        return [entry for path in sorted(self.directory.iterdir()) for entry, _, _ in read_frames(path.read_bytes())]

    def parts(self) -> list[str]:
        return [path.name for path in self.directory.iterdir()]

    def written(self) -> int:
        return sum(isinstance(entry, Recorded) for entry in self.entries())


async def test_requests_are_written_while_it_records_and_the_row_tells_until_when(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    task = spawn(bench.keeper.run(), name="records")
    bench.begin()
    assert bench.row.recording == 0
    bench.route(3)
    assert bench.row.recording == 7

    async def all_written() -> bool:
        return bench.counted("written") == 3

    await until(all_written)
    assert (bench.written(), bench.row.recording) == (3, 7)
    bench.order.end()

    async def told() -> bool:
        return bench.row.recording == 0

    await until(told)
    assert bench.entries()[-1] == Closing(0)
    bench.keeper.finish()
    await task


async def test_what_is_left_is_written_at_the_end(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.begin()
    bench.route(2)
    bench.keeper.finish()
    await bench.keeper.run()
    assert (bench.written(), bench.entries()[-1], bench.row.recording) == (2, Closing(0), 0)
    assert bench.parts() == [f"{7:016x}-3-{os.getpid()}.part"]


async def test_what_does_not_fit_is_counted(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.order.give(order(until_ns=1 << 62, max_bytes=10_000))
    bench.route(100)
    bench.keeper.finish()
    await bench.keeper.run()
    assert 0 < bench.counted("written") == bench.written() < 100
    assert bench.counted("full") == 100 - bench.written()
    assert bench.entries()[-1] == Closing(100 - bench.written())


async def test_a_disk_that_fails_is_counted_and_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(tmp_path / "gone")
    task = spawn(bench.keeper.run(), name="records")
    bench.begin()
    for failed in (2, 4):
        bench.route(2)

        async def counted(failed: int = failed) -> bool:
            return bench.counted("failed") == failed

        await until(counted)
    assert not task.done()
    bench.keeper.finish()
    await task
    messages = [record.message for record in caplog.records if "cannot be written" in record.message]
    assert len(messages) == 1
    assert "FileNotFoundError" in messages[0]
    assert bench.counted("written") == 0


async def test_a_request_that_cannot_be_encoded_does_not_end_the_router(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.begin()
    bench.route()
    (batch,) = bench.recorder.take()
    batch.requests[0].model = "\ud800"
    await bench.keeper._write(batch)
    assert bench.counted("failed") == 1
    bench.route()
    bench.keeper.finish()
    await asyncio.wait_for(bench.keeper.run(), 10)
    assert (bench.written(), bench.entries()[-1]) == (1, Closing(1))
