"""Counting what a peer may do only so often."""

from collections import deque

WINDOW_SECS = 10.0


class FloodGuard:
    """Tells when more than ``limit`` events fall into any ``WINDOW_SECS``.

    Remembers the times of the last ``limit`` events, so the answer is exact, not smoothed.
    """

    __slots__ = ("_times",)

    def __init__(self, limit: int) -> None:
        self._times: deque[float] = deque(maxlen=limit)

    def exceeded(self, now: float) -> bool:
        """Count one event at ``now``, a time in seconds that never goes back; whether it is one too many."""
        times = self._times
        too_many = len(times) == times.maxlen and now - times[0] < WINDOW_SECS
        times.append(now)
        return too_many
