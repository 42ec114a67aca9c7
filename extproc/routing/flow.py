"""Work that mostly needs no waiting and sometimes does: at once if it can, else as a future.

A flow is a generator that yields the futures it has to wait for and returns its result. Driven here, it costs next to
nothing while it yields none, and a request that waits for a thread, a place or a plugin is still written as one piece.
"""

import asyncio
from collections.abc import Generator
from typing import Any, TypeVar

T = TypeVar("T")

Flow = Generator["asyncio.Future[Any]", Any, T]


def run_flow(flow: "Flow[T]") -> "T | asyncio.Future[T]":
    """Return what a flow returns, now or later; raises what it raises, now or through the future.

    Cancelling the future cancels what the flow waits for, then and later, which it sees as ``asyncio.CancelledError``.
    """
    try:
        waiting = next(flow)
    except StopIteration as done:
        result: T = done.value
        return result
    return _Waiting(flow, waiting).outcome


class _Waiting:
    """A flow that has had to wait."""

    __slots__ = ("_awaited", "_flow", "outcome")

    def __init__(self, flow: "Flow[Any]", awaited: "asyncio.Future[Any]") -> None:
        self._flow = flow
        self._awaited = awaited
        self.outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.outcome.add_done_callback(self._abandoned)
        awaited.add_done_callback(self._go_on)

    def _go_on(self, done: "asyncio.Future[Any]") -> None:
        try:
            # Asked for also when nobody waits any more: else asyncio logs the exception, which may quote the prompt.
            error: BaseException | None = asyncio.CancelledError() if done.cancelled() else done.exception()
            if self.outcome.done():
                # The flow learns of it even when its future is done, and gives back what it holds.
                error = asyncio.CancelledError()
            self._awaited = self._flow.throw(error) if error is not None else self._flow.send(done.result())
        except StopIteration as finished:
            if not self.outcome.done():
                self.outcome.set_result(finished.value)
        except asyncio.CancelledError:
            if not self.outcome.done():
                self.outcome.cancel()
        except Exception as error:  # noqa: BLE001 - whoever awaits the future handles it
            if not self.outcome.done():
                self.outcome.set_exception(error)
        else:
            self._awaited.add_done_callback(self._go_on)
            if self.outcome.done():
                self._awaited.cancel()

    def _abandoned(self, outcome: "asyncio.Future[Any]") -> None:
        if outcome.cancelled():
            self._awaited.cancel()
