"""When a recording may begin, when it ends, and who still has to write."""

import os
import time
from pathlib import Path

import pytest

from extproc.admin.recording import RecordingRefused
from extproc.config.recording import RecordingSettings
from extproc.observer.recording import FORGOTTEN_SECS, ObservedRecording
from extproc.recording.control import RecordingWanted
from extproc.shm.processes import ProcessTable, Role
from extproc.shm.recording import RecordingOrder
from tests.support.segments import mapped

NS = 1_000_000_000
NOW_NS = 50 * NS


class Bench:
    def __init__(self, directory: Path | str, *, max_bytes: int = 1 << 20) -> None:
        segment = mapped()
        self.now_ns = NOW_NS
        self.order = RecordingOrder(segment)
        self.table = ProcessTable(segment)
        self.recording = ObservedRecording(
            settings=RecordingSettings(directory=str(directory), max_bytes=max_bytes),
            order=self.order,
            rows=self.table.rows,
            clock_ns=lambda: self.now_ns,
        )

    def begin(self, secs: float = 60, max_bytes: int | None = None) -> None:
        self.recording.begin(RecordingWanted(secs=secs, max_bytes=max_bytes))

    def router_holds(self, number: int) -> None:
        row = self.table.claim(role=Role.ROUTER, index=0, now_ns=1)
        assert row is not None
        row.begin_recording(number)


def test_nothing_is_recorded_at_first(tmp_path: Path) -> None:
    status = Bench(tmp_path).recording.status()
    assert (status.directory, status.recording, status.secs_left, status.unwritten) == (str(tmp_path), None, 0, 0)


def test_an_order_is_given_with_a_number_a_salt_a_bound_and_an_end(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    status = bench.recording.begin(RecordingWanted(secs=60))
    order = bench.order.read()
    assert (order.until_ns, order.max_bytes) == (NOW_NS + 60 * NS, 1 << 20)
    assert order.number > 0
    assert (status.recording, status.secs_left) == (f"{order.number:016x}", 60)
    bench.recording.end()
    bench.begin()
    again = bench.order.read()
    assert order.number != again.number
    assert order.salt != again.salt


@pytest.mark.parametrize(("wanted", "given"), [(20_000, 20_000), (1 << 40, 1 << 20)])
def test_the_bound_can_only_be_lowered(wanted: int, given: int, tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.begin(max_bytes=wanted)
    assert bench.order.read().max_bytes == given


def test_it_is_refused_where_it_is_not_allowed() -> None:
    bench = Bench("")
    with pytest.raises(RecordingRefused, match=r"not allowed: `recording\.directory` is not set"):
        bench.begin()
    assert bench.order.until_ns == 0


def test_it_is_refused_while_another_is_under_way_or_being_written(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.begin()
    with pytest.raises(RecordingRefused, match="is under way for 60 s more"):
        bench.begin()
    bench.router_holds(bench.order.read().number)
    bench.now_ns += 60 * NS
    with pytest.raises(RecordingRefused, match="has ended and is still being written"):
        bench.begin()
    status = bench.recording.end()
    assert (status.recording, status.secs_left, status.unwritten) == (f"{bench.order.read().number:016x}", 0, 1)
    bench.table.row(0).end_recording()
    assert bench.recording.status().recording is None
    bench.begin()


def test_it_is_refused_when_the_directory_is_gone(tmp_path: Path) -> None:
    with pytest.raises(RecordingRefused, match="cannot be used"):
        Bench(tmp_path / "gone").begin()


def test_it_is_refused_when_parts_that_nobody_fetched_take_all_the_room(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    part = tmp_path / f"{1:016x}-1-1.part"
    part.write_bytes(bytes(1 << 20))
    with pytest.raises(RecordingRefused, match="There is no room"):
        bench.begin()
    assert part.exists()


def test_parts_that_are_forgotten_make_room_and_nothing_else_is_touched(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    old, young, foreign = tmp_path / f"{1:016x}-1-1.part", tmp_path / f"{2:016x}-1-1.part", tmp_path / "my.part"
    then = time.time() - FORGOTTEN_SECS - 60
    for path in (old, young, foreign):
        path.write_bytes(bytes(1 << 19))
    for path in (old, foreign):
        os.utime(path, (then, then))
    bench.begin()
    assert sorted(tmp_path.iterdir()) == sorted([young, foreign])


def test_a_recording_is_not_ended_in_the_name_of_another(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.begin()
    number = f"{bench.order.read().number:016x}"
    assert bench.recording.end("0" * 16).recording == number
    assert bench.recording.end(number).recording is None
