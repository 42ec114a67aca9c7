"""Who takes the next connection on the shared socket: the router with the least load.

All routers watch one listening socket. Each tells, through its row of the process table, how many streams its shared
connections carry and have recently carried; a router accepts at once when nobody's number is lower, else after a delay
that grows with its rank. The least loaded router therefore wins, and a stuck one only costs milliseconds. One that is
not ready, or drains, comes after all that are.

Recent streams count because a short request is gone before the next connection arrives. They fade by half every
``FADE_SECS``, so a replaced router does not take every connection until its total has caught up.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

FADE_SECS = 1.0
RANK_DELAY_SECS = 0.004
CONNECTION_WORTH = 16
"""Streams that a fresh connection counts for at once, before the first of them is seen."""


class LoadRow(Protocol):
    """A router's row of the process table."""

    shared_streams: int


class AcceptGate:
    """The load of one router, and its rank among the others.

    ``peers`` gives the rows of all routers that are ready, this one included if it is.
    """

    def __init__(self, row: LoadRow, peers: Callable[[], Iterable[LoadRow]]) -> None:
        self._row = row
        self._peers = peers
        self._recent = 0.0
        self._active = 0

    def connection_accepted(self) -> None:
        """Count a connection just taken."""
        self._recent += CONNECTION_WORTH
        self._publish()

    def stream_opened(self) -> None:
        """Count a stream on a shared connection."""
        self._active += 1
        self._recent += 1
        self._publish()

    def stream_closed(self) -> None:
        """Count its end."""
        self._active -= 1
        self._publish()

    def fade(self, elapsed_secs: float) -> None:
        """Let what is past count less; call regularly."""
        self._recent *= 0.5 ** (elapsed_secs / FADE_SECS)
        self._publish()

    def accept_delay_secs(self) -> float:
        """How long to leave a waiting connection to less loaded routers; 0 when there is none."""
        peers = list(self._peers())
        if not any(peer is self._row for peer in peers):
            return RANK_DELAY_SECS * len(peers)
        mine = self._row.shared_streams
        return RANK_DELAY_SECS * sum(1 for peer in peers if peer.shared_streams < mine)

    def _publish(self) -> None:
        self._row.shared_streams = self._active + int(self._recent)
