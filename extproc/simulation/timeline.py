"""Virtual time: what happens when."""

import heapq
from collections.abc import Callable
from math import inf


class VirtualClock:
    """A clock that stands still until it is moved, in seconds."""

    __slots__ = ("now",)

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the present moment."""
        return self.now


class Timeline:
    """Calls in the order of their time, and of their making where the time is the same."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self._calls: list[tuple[float, int, Callable[[], None]]] = []
        self._made = 0

    @property
    def now(self) -> float:
        """The present moment."""
        return self.clock.now

    def at(self, time: float, call: Callable[[], None]) -> None:
        """Call at a time; one that is past is taken for now."""
        self._made += 1
        heapq.heappush(self._calls, (max(time, self.clock.now), self._made, call))

    def after(self, secs: float, call: Callable[[], None]) -> None:
        """Call after so many seconds."""
        self.at(self.clock.now + secs, call)

    def run(self, *, until: float = inf) -> None:
        """Let everything happen until nothing is left to come, or up to a time."""
        calls, clock, pop = self._calls, self.clock, heapq.heappop
        while calls and calls[0][0] <= until:
            clock.now, _, call = pop(calls)
            call()
