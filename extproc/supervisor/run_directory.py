"""The directory where a service keeps its sockets, its metric files and its pid."""

import fcntl
import logging
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

from extproc.errors import StartupError

logger = logging.getLogger(__name__)

_MODE = 0o755
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class RunDirectory:
    """Makes the directory, and holds it for one service while open.

    Opening raises ``StartupError`` when it cannot be made, belongs to someone else (whoever owns it could swap our
    sockets for theirs) or is held by another service. The lock goes with the process, however that ends, so nothing
    has to be cleaned up after a crash.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = path / "metrics"
        self._pid_file = path / "supervisor.pid"
        self._lock = -1

    def __enter__(self) -> Self:
        """Make, check and lock it; empty the metric files of the last run; write the pid."""
        try:
            self.path.mkdir(mode=_MODE, parents=True, exist_ok=True)
            self._check()
            self._lock = os.open(self.path / "supervisor.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise StartupError(f"supervisor.run_dir: cannot use {self.path}: {error}") from error
        try:
            self._take()
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let it go. The lock file stays: removing it would let two services lock two files of one name."""
        self._pid_file.unlink(missing_ok=True)
        os.close(self._lock)

    def _check(self) -> None:
        found = self.path.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise StartupError(f"supervisor.run_dir: {self.path} is not a directory of its own (a link, or a file)")
        if found.st_uid != os.geteuid():
            raise StartupError(f"supervisor.run_dir: {self.path} belongs to user {found.st_uid}, not to {os.geteuid()}")
        if found.st_mode & _WRITABLE_BY_OTHERS:
            logger.warning("%s was writable by others; it is not any more", self.path)
            self.path.chmod(stat.S_IMODE(found.st_mode) & ~_WRITABLE_BY_OTHERS)

    def _take(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartupError(
                f"supervisor.run_dir: {self.path} is in use by another service (pid {self._holder()})"
            ) from None
        try:
            self.metrics.mkdir(mode=_MODE, exist_ok=True)
            for file in self.metrics.glob("*.db"):
                file.unlink()
            self._pid_file.write_text(f"{os.getpid()}\n")
        except OSError as error:
            raise StartupError(f"supervisor.run_dir: cannot use {self.path}: {error}") from error

    def _holder(self) -> str:
        try:
            return self._pid_file.read_text().strip() or "unknown"
        except OSError:
            return "unknown"
