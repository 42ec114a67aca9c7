"""One child process, from spawning to reaping."""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from enum import StrEnum
from typing import Self

from extproc.shm.processes import ProcessRow, ProcessState
from extproc.supervisor.boot import ChildBoot

logger = logging.getLogger(__name__)

NS_PER_SEC = 1_000_000_000


class Cause(StrEnum):
    """Why a process had to be replaced; the closed set of the metric label."""

    EXIT = "exit"
    """It ended by itself."""
    SIGNAL = "signal"
    """Something killed it that was not us."""
    STUCK = "stuck"
    """Its event loop stood still, and we killed it."""
    START_TIMEOUT = "start_timeout"
    """It was not ready in time, and we killed it."""
    NOT_SPAWNED = "not_spawned"
    """The system gave us no process."""
    RELOAD = "reload"
    """It served well; its successor has newer settings or code."""
    RELOAD_FAILED = "reload_failed"
    """It was to be such a successor and did not become ready."""


class ChildProcess:
    """A child, and its row of the process table.

    It leads a process group of its own, so that Ctrl-C in a terminal reaches the supervisor alone, which then stops the
    children in order.
    """

    def __init__(self, *, boot: ChildBoot, row: ProcessRow, popen: subprocess.Popen[bytes]) -> None:
        self.boot = boot
        self.row = row
        self.pid = popen.pid
        self.killed = False
        self.ready_since_ns = 0
        self.deadline_ns = 0
        self._popen = popen
        self._killed_for: Cause | None = None
        self._lifeline = popen.stdin.fileno() if popen.stdin is not None else -1
        self._unsent = boot.to_line()

    @classmethod
    def spawn(cls, *, boot: ChildBoot, row: ProcessRow, environment: Mapping[str, str]) -> Self:
        """Start the process. Raises ``OSError`` when the system cannot.

        ``-P`` keeps the current directory off the child's import path.
        """
        shared = () if boot.shared_socket_fd is None else (boot.shared_socket_fd,)
        popen = subprocess.Popen(
            [sys.executable, "-P", "-m", "extproc.supervisor.child"],
            stdin=subprocess.PIPE,
            bufsize=0,
            pass_fds=(boot.segment_fd, *shared),
            env=dict(environment),
            process_group=0,
        )
        child = cls(boot=boot, row=row, popen=popen)
        row.pid = child.pid
        os.set_blocking(child._lifeline, False)
        child.send()
        return child

    @property
    def name(self) -> str:
        """Its name for people, with its pid."""
        return f"{self.boot.name} (pid {self.pid})"

    @property
    def ready(self) -> bool:
        """Whether it does its work."""
        return self.row.state is ProcessState.READY

    @property
    def exit_code(self) -> int | None:
        """Its exit code once :meth:`reap` has found it ended; minus the number of the signal that killed it."""
        return self._popen.returncode

    def send(self) -> None:
        """Hand over what the pipe takes of the boot line; long settings take a few calls.

        It never blocks: the supervisor must not hang on a child that does not read.
        """
        while self._unsent:
            try:
                self._unsent = self._unsent[os.write(self._lifeline, self._unsent) :]
            except BlockingIOError:
                return
            except BrokenPipeError:
                self._unsent = b""  # it has died; reaping will tell

    def reap(self) -> bool:
        """Whether it has ended; if so, nothing of it is left in the system."""
        if self._popen.poll() is None:
            return False
        if self._popen.stdin is not None:
            self._popen.stdin.close()
        return True

    def cause(self) -> Cause:
        """Why it has ended."""
        code = self.exit_code or 0
        return self._killed_for or (Cause.SIGNAL if code < 0 else Cause.EXIT)

    def ending(self) -> str:
        """How it has ended, for people."""
        code = self.exit_code or 0
        return f"signal {_signal_name(-code)}" if code < 0 else f"exit code {code}"

    def heartbeat_age_secs(self, now_ns: int) -> float:
        """How long ago its event loop last ran."""
        return (now_ns - self.row.heartbeat_ns) / NS_PER_SEC

    def terminate(self, *, deadline_ns: int) -> None:
        """Ask it to drain and end; past the deadline its seat kills it."""
        self.deadline_ns = deadline_ns
        self._popen.send_signal(signal.SIGTERM)

    def kill(self, cause: Cause | None = None) -> None:
        """End it at once; the first cause counts."""
        self.killed = True
        self._killed_for = self._killed_for or cause
        self._popen.kill()


def _signal_name(number: int) -> str:
    """Return the name of a signal; most real-time signals have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
