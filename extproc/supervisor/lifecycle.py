"""A child's side of being watched: its row, its heartbeat, and the word to stop.

::

    def run(boot: ChildBoot) -> int:
        return asyncio.run(serve(boot))

    async def serve(boot: ChildBoot) -> int:
        async with ChildLifecycle(boot) as life:
            ...start...
            life.ready()
            await life.stop.wait()
            ...drain...
        return 0
"""

import asyncio
import faulthandler
import logging
import os
import signal
import sys
import time
from types import TracebackType
from typing import Self

from extproc.shm.processes import ProcessRow, ProcessState, ProcessTable
from extproc.shm.segment import Segment
from extproc.supervisor.boot import STOP_GRACE_SECS, ChildBoot

logger = logging.getLogger(__name__)

_STUCK_TIMEOUTS = 2.0
_LIFELINE_BYTES = 4096


class ChildLifecycle:
    """Ties a role's event loop to the supervisor, while open.

    ``stop`` is set on SIGTERM and when the supervisor dies (``lifeline``, the child's standard input, ends); the role
    then drains and returns. ``segment`` is the shared memory and ``row`` the process's own row in it.

    The heartbeat is written *from the event loop*, so a loop that is stuck is seen. Who sees it is the supervisor; but
    should that be dead too, nobody would, so a timer outside Python ends a process whose loop has stood still for twice
    ``heartbeat_timeout_secs`` and prints where it stands. A drain without a supervisor has a limit as well. Nothing is
    left behind in any case.
    """

    def __init__(self, boot: ChildBoot, *, lifeline: int = 0) -> None:
        self._settings = boot.settings.supervisor
        self._drain_secs = boot.settings.server.drain_timeout_secs + STOP_GRACE_SECS
        self._lifeline = lifeline
        self.segment = Segment.attach(boot.segment_fd)
        self.row: ProcessRow = ProcessTable(self.segment).row(boot.slot)
        self.stop = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Begin to beat and to listen."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGTERM, self._stop, "SIGTERM")
        self._loop.add_reader(self._lifeline, self._read_lifeline)
        self._beat()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop both. A row left through a fault says FAILED."""
        self._heartbeat.cancel()
        faulthandler.cancel_dump_traceback_later()
        self._loop.remove_reader(self._lifeline)
        self._loop.remove_signal_handler(signal.SIGTERM)
        if error is not None:
            self.row.state = ProcessState.FAILED

    def ready(self) -> None:
        """Tell the supervisor that work is done from now on. No effect once told to stop."""
        if not self.stop.is_set():
            self.row.state = ProcessState.READY

    def draining(self) -> None:
        """Tell the others that nothing more is taken on. Told to stop, a process says so by itself."""
        self.row.state = ProcessState.DRAINING

    def _beat(self) -> None:
        self.row.heartbeat_ns = time.monotonic_ns()
        faulthandler.dump_traceback_later(
            _STUCK_TIMEOUTS * self._settings.heartbeat_timeout_secs, exit=True, file=sys.__stderr__ or 2
        )
        self._heartbeat = self._loop.call_later(self._settings.heartbeat_interval_secs, self._beat)

    def _stop(self, why: str) -> None:
        if not self.stop.is_set():
            logger.info("Stopping: %s", why)
            self.draining()
            self.stop.set()

    def _read_lifeline(self) -> None:
        if os.read(self._lifeline, _LIFELINE_BYTES):
            return
        self._loop.remove_reader(self._lifeline)
        self._loop.call_later(self._drain_secs, self._give_up)
        self._stop("the supervisor is gone")

    def _give_up(self) -> None:
        logger.warning("Not stopped after %g s, and nobody is left to insist: ending now", self._drain_secs)
        os.kill(os.getpid(), signal.SIGKILL)
