"""Accepting connections from one listening socket, at once or only when nobody less loaded does."""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable

logger = logging.getLogger(__name__)

_BATCH = 32
"""Connections taken in one turn of the loop, so that a crowd at the door does not stop the work inside."""
_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_RECOVERY_SECS = 1.0


class Acceptor:
    """Watches one listening socket and hands every connection to ``take``, non-blocking.

    ``delay_secs`` is asked before each; as long as it says more than 0 the connection is left to other processes that
    watch the same socket, and tried again after that time. ``exclusive`` says that no other process does: nobody but us
    can then take what is waiting when we stop.
    """

    def __init__(
        self,
        *,
        listening: socket.socket,
        take: Callable[[socket.socket], None],
        exclusive: bool,
        delay_secs: Callable[[], float] | None = None,
    ) -> None:
        self._listening = listening
        self._take = take
        self._exclusive = exclusive
        self._delay_secs = delay_secs
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False
        self._loop.add_reader(listening, self._on_readable)

    def stop(self) -> None:
        """Watch no more, once. The socket stays open, but nothing of ours waits in it: closing it would reset that."""
        self._stopped = True
        if self._timer is None:
            self._loop.remove_reader(self._listening)
        else:
            self._timer.cancel()
        while self._exclusive and self._accept():
            pass

    def _on_readable(self) -> None:
        for _ in range(_BATCH):
            delay_secs = self._delay_secs() if self._delay_secs is not None else 0.0
            if delay_secs > 0:
                self._look_away(delay_secs)
                return
            if not self._accept():
                return

    def _look_away(self, secs: float) -> None:
        self._loop.remove_reader(self._listening)
        self._timer = self._loop.call_later(secs, self._try_again)

    def _try_again(self) -> None:
        self._timer = None
        self._loop.add_reader(self._listening, self._on_readable)
        self._accept()

    def _accept(self) -> bool:
        try:
            connection, _ = self._listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError as error:
            if error.errno not in _OUT_OF_RESOURCES:
                raise
            logger.error("No connection can be accepted: %s", error)  # noqa: TRY400 - where it happens says nothing
            if not self._stopped and self._timer is None:
                self._look_away(_RECOVERY_SECS)
            return False
        connection.settimeout(0)
        self._take(connection)
        return True
