"""Waiting for what happens in another process: a condition and a deadline, never a mere pause."""

import asyncio
from collections.abc import Awaitable, Callable

DEADLINE_SECS = 30.0
POLL_SECS = 0.02


async def until(condition: Callable[[], Awaitable[bool]], *, deadline_secs: float = DEADLINE_SECS) -> None:
    """Return once ``condition`` holds. Raises ``TimeoutError`` when it does not in time.

    One that cannot be asked (``OSError``: whoever would answer is being replaced) does not hold yet.
    """
    async with asyncio.timeout(deadline_secs):
        while not await _holds(condition):  # noqa: ASYNC110 - another process acts; there is no event to await
            await asyncio.sleep(POLL_SECS)


async def _holds(condition: Callable[[], Awaitable[bool]]) -> bool:
    try:
        return await condition()
    except OSError:
        return False
