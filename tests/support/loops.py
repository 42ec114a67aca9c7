"""An event loop whose time stands still until a test moves it."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

SETTLING_ROUNDS = 4


class ClockedLoop(asyncio.SelectorEventLoop):
    """Timers fire when :meth:`advance` reaches them. To be closed.

    What asyncio would only log, such as a failed callback or an exception that nobody asked for, fails the test.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.complaints: list[str] = []
        self.set_exception_handler(lambda _loop, context: self.complaints.append(repr(context)))

    def time(self) -> float:
        return self.now

    def settle(self, action: Callable[[], T]) -> T:
        """Do something inside the loop, and let what it sets off happen."""

        async def inside() -> T:
            try:
                return action()
            finally:
                for _ in range(SETTLING_ROUNDS):
                    await asyncio.sleep(0)

        result = self.run_until_complete(inside())
        assert self.complaints == []
        return result

    def advance(self, secs: float) -> None:
        """Let time pass."""
        self.now += secs
        self.settle(lambda: None)
