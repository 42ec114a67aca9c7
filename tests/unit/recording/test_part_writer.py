"""Parts on disk: private, whole, and together never above their bound."""

import fcntl
import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.recording.control import MIN_BYTES
from extproc.recording.part_writer import PartWriter, Written, parts_bytes
from extproc.recording.record import Closing, Opening, Recorded, read_frames
from extproc.recording.recorder import Batch
from tests.support.processes import python_child
from tests.support.recordings import order, recorded

HOLD = """
import fcntl, os, sys
fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def writer(directory: Path, pid: int = 1) -> PartWriter:
    return PartWriter(directory=directory, slot=2, pid=pid, sleep=time.sleep)


def batch(count: int = 1, *, number: int = 7, left_out: int = 0, closing: bool = False, most: int = 1 << 20) -> Batch:
    requests = [recorded(float(one), hashes=b"12345678" * 4) for one in range(count)]
    return Batch(order(number, max_bytes=most), requests, left_out, closing)


def entries(path: Path) -> list[object]:
    return [entry for entry, _, _ in read_frames(path.read_bytes())]


def requests(directory: Path) -> int:
    return sum(isinstance(entry, Recorded) for path in directory.iterdir() for entry in entries(path))


def test_a_part_is_written_batch_by_batch_and_closed(tmp_path: Path) -> None:
    one = writer(tmp_path)
    assert one.write(batch(2)) == Written(2, 0)
    assert one.write(batch(1, left_out=4, closing=True)) == Written(1, 0)
    (path,) = tmp_path.iterdir()
    assert (path.name, path.stat().st_mode & 0o777) == ("0000000000000007-2-1.part", 0o600)
    found = entries(path)
    assert (found[0], found[-1], len(found)) == (Opening(), Closing(4), 5)


def test_each_recording_has_a_part_of_its_own(tmp_path: Path) -> None:
    one = writer(tmp_path)
    one.write(batch(1, number=7))
    one.write(batch(1, number=8, left_out=1, closing=True))
    assert [entries(path)[-1] for path in sorted(tmp_path.iterdir())][1] == Closing(1)
    assert requests(tmp_path) == 2


def test_what_stands_in_its_place_is_never_written_to(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "0000000000000007-2-1.part").symlink_to(victim)
    one = writer(tmp_path)
    with pytest.raises(FileExistsError):
        one.write(batch())
    assert victim.read_text() == "mine"


@given(
    most=st.integers(MIN_BYTES, 20_000), sizes=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40)), max_size=12)
)
def test_all_parts_together_stay_within_the_bound(
    tmp_path_factory: pytest.TempPathFactory, most: int, sizes: list[tuple[int, int]]
) -> None:
    directory = tmp_path_factory.mktemp("parts")
    writers = [writer(directory, pid) for pid in range(3)]
    written = full = 0
    for which, count in sizes:
        result = writers[which].write(batch(count, most=most))
        assert sum(result) == count
        written += result.written
        full += result.full
        assert parts_bytes(directory) <= most
    for one in writers:
        one.write(batch(0, most=most, closing=True))
    assert parts_bytes(directory) <= most
    assert requests(directory) == written
    closings = [entry for path in directory.iterdir() for entry in entries(path) if isinstance(entry, Closing)]
    assert sum(closing.left_out for closing in closings) == full
    if full:
        assert most - parts_bytes(directory) < 9000


def test_parts_of_other_recordings_take_room_too(tmp_path: Path) -> None:
    (tmp_path / f"{1:016x}-1-1.part").write_bytes(bytes(5000))
    (tmp_path / "else.part").write_bytes(bytes(50_000))
    assert parts_bytes(tmp_path) == 5000
    one = writer(tmp_path)
    assert one.write(batch(3, most=13_000)).written == 0
    one.close()


@contextmanager
def no_larger_files_than(size: int) -> Iterator[None]:
    """Let the system refuse to write further, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_of_a_batch_that_cannot_be_written_nothing_stays_and_the_next_one_follows(tmp_path: Path) -> None:
    one = writer(tmp_path)
    one.write(batch(1))
    (path,) = tmp_path.iterdir()
    size = path.stat().st_size
    failing = batch(50)
    with no_larger_files_than(size + 500), pytest.raises(OSError, match="File too large"):
        one.write(failing)
    one.failed(failing)
    assert path.stat().st_size == size
    one.write(batch(2, closing=True))
    assert (requests(tmp_path), entries(path)[-1]) == (3, Closing(50))


def test_waits_for_the_lock_of_another_and_gives_up_on_one_that_keeps_it(tmp_path: Path) -> None:
    pauses: list[float] = []
    one = PartWriter(directory=tmp_path, slot=2, pid=1, sleep=pauses.append)
    with python_child(HOLD, str(tmp_path)) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(TimeoutError, match="holds the lock"):
            one.write(batch())
        assert sum(pauses) == pytest.approx(2.0)
    # Its holder is dead.
    assert one.write(batch()).written == 1
    one.close()
    fd = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)
