"""Writes a router's part of a recording to disk, within a bound for all routers together.

The bound is on what all parts in the directory take, those of earlier recordings included, so nothing that dies can
make it grow: whoever writes holds a lock on the directory, adds up what is there and writes what fits. The kernel
releases the lock of a process that ends.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from extproc.recording.control import MIN_BYTES
from extproc.recording.record import PART_PATTERN, Closing, Opening, frame, frames, part_name
from extproc.recording.recorder import Batch
from extproc.shm.layout import MAX_PROCESSES

LOCK_TIMEOUT_SECS = 2.0
_LOCK_POLL_SECS = 0.01
_FRAME_ROOM_BYTES = 64
RESERVED_BYTES = 2 * MAX_PROCESSES * _FRAME_ROOM_BYTES
"""Room for what each part starts and ends with, which is written in any case."""
assert RESERVED_BYTES < MIN_BYTES, "the least bound leaves room for requests"


class Written(NamedTuple):
    """What became of a batch: requests ``written``, and those left out as the bound is reached (``full``)."""

    written: int
    full: int


class PartWriter:
    """Writes for one process, one call at a time, from any thread; ``sleep`` waits for the lock of the directory.

    A part is made for its user alone, and never found: a file or link of its name is an error.
    """

    def __init__(self, *, directory: Path, slot: int, pid: int, sleep: Callable[[float], None]) -> None:
        self._directory = directory
        self._slot = slot
        self._pid = pid
        self._sleep = sleep
        self._fd = -1
        self._recording = 0
        self._left_out = 0

    def write(self, batch: Batch) -> Written:
        """Write a batch; raises ``OSError`` when that cannot be done, and nothing of it stays half written."""
        self._left_out += batch.left_out
        with self._alone():
            if self._recording != batch.order.number:
                self._open(batch.order.number)
            room = batch.order.max_bytes - RESERVED_BYTES - parts_bytes(self._directory)
            kept: list[bytes] = []
            for one in frames(batch.requests, salt=batch.order.salt):
                room -= len(one)
                if room < 0:
                    break
                kept.append(one)
            full = len(batch.requests) - len(kept)
            self._left_out += full
            if batch.closing:
                kept.append(frame(Closing(self._left_out)))
            self._append(b"".join(kept))
        if batch.closing:
            self.close()
        return Written(len(batch.requests) - full, full)

    def failed(self, batch: Batch) -> None:
        """Note that a batch could not be written: its requests are left out."""
        self._left_out += len(batch.requests)
        if batch.closing:
            self.close()

    def close(self) -> None:
        """Let the part go; the next batch has another."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
        self._recording = 0
        self._left_out = 0

    def _open(self, recording: int) -> None:
        left_out = self._left_out
        self.close()
        path = self._directory / part_name(recording=recording, slot=self._slot, pid=self._pid)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o600)
        self._recording = recording
        self._left_out = left_out
        self._append(frame(Opening()))

    def _append(self, data: bytes) -> None:
        """Write all of it or nothing."""
        size = os.fstat(self._fd).st_size
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._fd, size)
            raise

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock of the directory; raises ``TimeoutError`` when others hold it for long."""
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for _ in range(int(LOCK_TIMEOUT_SECS / _LOCK_POLL_SECS)):
                with suppress(BlockingIOError):
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                self._sleep(_LOCK_POLL_SECS)
            else:
                raise TimeoutError(f"another process holds the lock of {self._directory}")
            yield
        finally:
            os.close(fd)


def parts_bytes(directory: Path) -> int:
    """Return what all parts in a directory take on disk; raises ``OSError``."""
    total = 0
    with os.scandir(directory) as found:
        for one in found:
            if PART_PATTERN.fullmatch(one.name):
                # A part may be removed meanwhile by whoever has merged it.
                with suppress(FileNotFoundError):
                    total += one.stat(follow_symlinks=False).st_size
    return total
