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
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

from extproc.shm.processes import ProcessRow, ProcessState, ProcessTable
from extproc.shm.segment import Segment
from extproc.supervisor.boot import STOP_GRACE_SECS, ChildBoot

logger = logging.getLogger(__name__)

_LIFELINE_BYTES = 4096


class ChildLifecycle:
    """Ties a role's event loop to the supervisor, while open.

    ``stop`` is set on SIGTERM and when the supervisor dies (``lifeline``, the child's standard input, ends); the role
    then drains and returns. ``segment`` is the shared memory and ``row`` the process's own row in it.

    The heartbeat is written *from the event loop*, so a loop that is stuck is seen and the supervisor kills it. When
    the supervisor is dead nobody would, so the end of the lifeline is awaited by a thread, which a stuck loop does not
    hold up: it sets a limit to the life of this process, kept by a timer outside Python. Nothing is left behind.
    """

    def __init__(self, boot: ChildBoot, *, lifeline: int = 0) -> None:
        self._interval_secs = boot.settings.supervisor.heartbeat_interval_secs
        self._limit_secs = boot.settings.server.drain_timeout_secs + STOP_GRACE_SECS
        self._lifeline = lifeline
        self._open = False
        self.segment = Segment.attach(boot.segment_fd)
        self.row: ProcessRow = ProcessTable(self.segment).row(boot.slot)
        self.stop = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Begin to beat and to listen."""
        self._open = True
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGTERM, self._stop, "SIGTERM")
        threading.Thread(target=self._await_end_of_lifeline, name="lifeline", daemon=True).start()
        self._beat()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop both. A row left through a fault says FAILED."""
        self._open = False
        faulthandler.cancel_dump_traceback_later()
        self._heartbeat.cancel()
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
        self._heartbeat = self._loop.call_later(self._interval_secs, self._beat)

    def _stop(self, why: str) -> None:
        if not self.stop.is_set():
            logger.info("Stopping: %s", why)
            self.draining()
            self.stop.set()

    def _await_end_of_lifeline(self) -> None:
        while os.read(self._lifeline, _LIFELINE_BYTES):
            pass
        if self._open:
            faulthandler.dump_traceback_later(self._limit_secs, exit=True, file=sys.__stderr__ or 2)
            with suppress(RuntimeError):  # the loop has closed in this moment: the role has ended
                self._loop.call_soon_threadsafe(self._stop, "the supervisor is gone")
