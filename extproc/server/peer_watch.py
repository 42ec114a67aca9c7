"""Noticing a peer that is gone, or does nothing."""

import asyncio
from collections.abc import Callable

from extproc.config.server import ServerSettings
from extproc.server.base import CloseReason


class PeerWatch:
    """The timer of one connection.

    Before :meth:`greeted`, gives the peer up at ``deadline``, a time of the loop. After it, sends a PING to a peer that
    is silent for ``keepalive_time_secs`` and gives it up when nothing at all comes for ``keepalive_timeout_secs``
    after. A peer that blocks writing is not read from either, so it is not asked; it has the sum of the two.

    Wakes about once per ``keepalive_time_secs``, so that a read costs no more than storing :attr:`heard_at`.
    """

    def __init__(
        self,
        *,
        settings: ServerSettings,
        deadline: float,
        ping: Callable[[], None],
        give_up: Callable[[CloseReason], None],
    ) -> None:
        self._time_secs = settings.keepalive_time_secs
        self._timeout_secs = settings.keepalive_timeout_secs
        self._ping = ping
        self._give_up = give_up
        self._loop = asyncio.get_running_loop()
        self._pinged_at: float | None = None
        self._timer = self._loop.call_at(deadline, self._handshake_over)
        self.heard_at = self._loop.time()
        """The loop's time of the last read; set by the connection."""
        self.blocked_since: float | None = None
        """The loop's time since when the peer takes no more, or None."""

    def greeted(self) -> None:
        """The handshake is complete."""
        self._arm(self._time_secs)

    def blocked(self) -> None:
        """The peer takes no more."""
        self.blocked_since = self._loop.time()

    def unblocked(self) -> None:
        """The peer takes again what it is sent, and is read from."""
        self.blocked_since = None
        self.heard_at = self._loop.time()

    def stop(self) -> None:
        """End; may be called more than once."""
        self._timer.cancel()

    def _arm(self, delay_secs: float) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_later(delay_secs, self._look)

    def _handshake_over(self) -> None:
        self._give_up(CloseReason.HANDSHAKE_TIMEOUT)

    def _look(self) -> None:
        now = self._loop.time()
        if self.blocked_since is not None:
            left_secs = self.blocked_since + self._time_secs + self._timeout_secs - now
            if left_secs > 0:
                self._arm(left_secs)
            else:
                self._give_up(CloseReason.NOT_READING)
            return
        quiet_secs = now - self.heard_at
        if quiet_secs < self._time_secs:
            self._pinged_at = None
            self._arm(self._time_secs - quiet_secs)
        elif self._pinged_at is None or self.heard_at >= self._pinged_at:
            self._pinged_at = now
            self._ping()
            self._arm(self._timeout_secs)
        else:
            self._give_up(CloseReason.KEEPALIVE_TIMEOUT)
