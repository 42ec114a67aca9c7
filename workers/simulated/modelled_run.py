"""One request of a client while the model of an engine works on it: who waits for which token, and looks how often."""

import asyncio

from workers.engine.engine import Engine
from workers.engine.request import Request
from workers.simulated.driver import Driver
from workers.simulated.faults import Faults


class ModelledRun:
    """One request of a client: one or several in the engine."""

    def __init__(self, *, driver: Driver, engine: Engine, faults: Faults, interval_secs: float) -> None:
        self._driver = driver
        self._engine = engine
        self._faults = faults
        self._interval_secs = interval_secs
        self._loop = asyncio.get_running_loop()
        self._requests: list[Request] = []
        self._first_of_prompts: list[Request] = []
        self._without_first = 0
        self._unfinished = 0
        self._waiter: asyncio.Future[None] | None = None

    def take(self, request: Request, *, first_of_prompt: bool) -> None:
        """Note one of its requests in the engine."""
        self._requests.append(request)
        self._without_first += 1
        self._unfinished += 1
        if first_of_prompt:
            self._first_of_prompts.append(request)

    def had_first(self) -> None:
        """One of its requests has its first token."""
        self._without_first -= 1
        if not self._without_first:
            self._wake()

    def had_last(self) -> None:
        """One of its requests is finished."""
        self._unfinished -= 1
        if not self._unfinished:
            self._wake()

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that were cached, of all prompts; several answers to one prompt count once."""
        return sum(request.cached_tokens for request in self._first_of_prompts)

    async def read_prompt(self) -> None:
        """Wait until everything is computed."""
        while self._unfinished:
            await self._wait(None)

    async def produce(self, token: int) -> int:
        """Wait until ``token`` tokens of every answer are there, and for the next write to be due."""
        await self._faults.wait_while(lambda: self._faults.stalls_at(token))
        # The model says when the first and the last token are there; for those between, one looks again and again.
        pause_secs = None if token >= self._requests[0].answer_tokens else self._interval_secs
        if token > 1 and self._unfinished:
            await self._wait(pause_secs)
        while (there := self._there()) < token:
            await self._wait(None if self._without_first else pause_secs)
        limit = self._faults.behaviour.stall_after_tokens
        return min(there, limit) if limit >= token else there

    def abandon(self) -> None:
        """End what is not finished, and let go of everything."""
        if self._unfinished:
            for request in self._requests:
                self._driver.abort(request)
        for request in self._requests:
            # They refer to the request, and so would keep its tokens until the next full garbage collection.
            request.on_first = request.on_end = _ignore

    def _there(self) -> int:
        if self._without_first:
            return 0
        now = self._driver.catch_up()
        return min(self._engine.produced(request, now) for request in self._requests)

    async def _wait(self, secs: float | None) -> None:
        """Wait until all first or last tokens are there, or the time is over."""
        self._waiter = waiter = self._loop.create_future()
        timer = None if secs is None else self._loop.call_later(secs, self._wake)
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _ignore(at: float) -> None:
    """Nobody wants to know."""
