"""Drives the model of one engine by the clock: arrivals and steps happen in the order of their times, late or not.

The model's time is that of the clock, but what it says does not depend on how late the event loop is: whatever is due
is done at the time when it was due, before anything later.
"""

import asyncio
import heapq
import itertools
import math
from collections.abc import Callable
from math import inf

from workers.engine.engine import Engine
from workers.engine.events import CacheEvent
from workers.engine.frontend import Frontend
from workers.engine.request import Request

MOST_STEPS_AT_ONCE = 1000
_TIMER_SECS = 0.001


class Driver:
    """Runs one engine on the running event loop.

    ``clock`` gives seconds. ``on_events`` gets what happened to the cache, ``on_step`` is called after each advance.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        frontend: Frontend,
        clock: Callable[[], float],
        on_events: Callable[[list[CacheEvent]], None],
        on_step: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._frontend = frontend
        self._clock = clock
        self._on_events = on_events
        self._on_step = on_step
        self._loop = asyncio.get_running_loop()
        self._arrivals: list[tuple[float, int, Request]] = []
        self._numbers = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._stepped_at = -inf
        self._closed = False

    def submit(self, request: Request, arrived: float) -> None:
        """Take a request that arrived at the API server then; it must fit the engine."""
        at = self._frontend.reaches_engine_at(arrived, request.prompt_tokens)
        heapq.heappush(self._arrivals, (at, next(self._numbers), request))
        self._arm(self._clock())

    def abort(self, request: Request) -> None:
        """End a request. Does nothing to one that is over."""
        now = self.catch_up()
        if request.over:
            return
        if request.arrived_at < 0:
            # It is still on its way to the engine.
            request.over = True
        else:
            self._engine.abort(request, now)
        self._arm(now)

    def catch_up(self) -> float:
        """Do whatever is due; return the time."""
        now = self._clock()
        for _ in range(MOST_STEPS_AT_ONCE):
            if self._closed or not self._do_next(now):
                break
        return now

    def close(self) -> None:
        """Do nothing more, whoever asks."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._arrivals.clear()

    def _do_next(self, now: float) -> bool:
        due = self._engine.due
        if self._arrivals and self._arrivals[0][0] <= min(due, now):
            at, _, request = heapq.heappop(self._arrivals)
            if not request.over:
                # It may have been taken late; the engine's time does not go back.
                self._engine.add(request, max(at, self._stepped_at))
            return True
        if due <= now:
            self._step()
            return True
        return False

    def _step(self) -> None:
        # Blocks are told of at the end of the step that they were given out for, so before the next one is planned.
        self._tell()
        self._stepped_at = self._engine.due
        self._engine.advance()
        if self._engine.due == inf:
            self._tell()
        self._on_step()

    def _tell(self) -> None:
        if self._engine.events:
            events, self._engine.events = self._engine.events, []
            self._on_events(events)

    def _wake(self) -> None:
        self._timer = None
        self._timer_at = inf
        self._arm(self.catch_up())

    def _arm(self, now: float) -> None:
        """Wake for what comes next; an earlier timer is left as it is."""
        at = min(self._engine.due, self._arrivals[0][0] if self._arrivals else inf)
        if at >= self._timer_at or self._closed:
            return
        if self._timer is not None:
            self._timer.cancel()
        # The loop's timers are rounded to whole milliseconds, down too: one that is early would only be set again.
        delay = math.ceil(max(at - now, 0.0) / _TIMER_SECS) * _TIMER_SECS
        self._timer = self._loop.call_later(delay, self._wake)
        self._timer_at = at
