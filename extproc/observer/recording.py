"""Orders recordings: whether one may begin, when it ends, and who still has to write."""

import logging
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from extproc.admin.recording import RecordingRefused
from extproc.config.recording import RecordingSettings
from extproc.recording.control import RecordingStatus, RecordingWanted
from extproc.recording.part_writer import RESERVED_BYTES, parts_bytes
from extproc.recording.record import PART_PATTERN
from extproc.shm.processes import ProcessRow
from extproc.shm.recording import Order, RecordingOrder

logger = logging.getLogger(__name__)

FORGOTTEN_SECS = 3600.0
"""Parts that nobody has written to for so long, and nobody has fetched, make room for the next recording."""

_NS_PER_SEC = 1e9


class ObservedRecording:
    """Recordings of one service; see :class:`~extproc.admin.recording.RecordingService`.

    ``rows`` returns those of all processes. ``clock_ns`` is that of the order in shared memory.
    """

    def __init__(
        self,
        *,
        settings: RecordingSettings,
        order: RecordingOrder,
        rows: Callable[[], Sequence[ProcessRow]],
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._settings = settings
        self._order = order
        self._rows = rows
        self._clock_ns = clock_ns

    def begin(self, wanted: RecordingWanted) -> RecordingStatus:
        """Let all routers record; raises :class:`RecordingRefused`."""
        settings = self._settings
        if not settings.directory:
            raise RecordingRefused("Recording is not allowed: `recording.directory` is not set.")
        status = self.status()
        if status.secs_left:
            raise RecordingRefused(f"Recording {status.recording} is under way for {status.secs_left:.0f} s more.")
        if status.unwritten:
            raise RecordingRefused(f"Recording {status.recording} has ended and is still being written; try again.")
        most = min(settings.max_bytes, wanted.max_bytes or settings.max_bytes)
        try:
            self._check_room(Path(settings.directory), most)
        except OSError as error:
            raise RecordingRefused(f"`recording.directory` cannot be used: {error}") from error
        until_ns = self._clock_ns() + int(wanted.secs * _NS_PER_SEC)
        # 0 stands for none.
        number, salt = secrets.randbits(63) + 1, secrets.randbits(64)
        self._order.give(Order(until_ns, number, salt, most))
        logger.info("Recording %s begins, for %g s at most", _name(number), wanted.secs)
        return self.status()

    def end(self, recording: str | None = None) -> RecordingStatus:
        """Let no router record any more; where a ``recording`` is named, only if it is that one."""
        number = _name(self._order.number)
        if self._order.until_ns and recording in (None, number):
            self._order.end()
            logger.info("Recording %s ends", number)
        return self.status()

    def status(self) -> RecordingStatus:
        """Return what is recorded."""
        order = self._order.read()
        left_ns = max(0, order.until_ns - self._clock_ns())
        held = [number for row in self._rows() if (number := row.recording)]
        number = order.number if left_ns else max(held, default=0)
        return RecordingStatus(
            directory=self._settings.directory,
            recording=_name(number) if number else None,
            secs_left=left_ns / _NS_PER_SEC,
            unwritten=len(held),
        )

    def _check_room(self, directory: Path, most: int) -> None:
        """Remove what is forgotten, and refuse when others have taken all the room."""
        oldest = time.time() - FORGOTTEN_SECS
        for path in directory.iterdir():
            if PART_PATTERN.fullmatch(path.name):
                # Whoever has merged it may be faster.
                with suppress(FileNotFoundError):
                    if path.lstat().st_mtime < oldest:
                        path.unlink()
                        logger.warning("Removed %s, which nobody has fetched", path)
        taken = parts_bytes(directory) + RESERVED_BYTES
        if taken >= most:
            raise RecordingRefused(
                f"There is no room: recordings in {directory} that were not fetched take {taken:,} of {most:,} bytes."
            )


def _name(number: int) -> str:
    return f"{number:016x}"
