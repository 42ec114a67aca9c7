"""Background tasks that cannot vanish.

The event loop keeps only a weak reference to a task and says nothing when one fails unobserved. Every task of ours is
started here: the reference is kept until it ends, a failure is logged at once, and a task that is meant to run for ever
is also logged when it merely ends.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

logger = logging.getLogger(__name__)
T = TypeVar("T")

_running: set[asyncio.Task[Any]] = set()


def spawn(coroutine: Coroutine[Any, Any, T], *, name: str, eternal: bool = False) -> asyncio.Task[T]:
    """Run ``coroutine`` as a task called ``name``; ``eternal`` tasks may end only by being cancelled."""
    task = asyncio.get_running_loop().create_task(coroutine, name=name)
    _running.add(task)
    task.add_done_callback(lambda done: _finished(done, eternal=eternal))
    return task


def _finished(task: asyncio.Task[Any], *, eternal: bool) -> None:
    _running.discard(task)
    if task.cancelled():
        return
    error = task.exception()
    if error is not None:
        logger.error("Task %s failed", task.get_name(), exc_info=error)
    elif eternal:
        logger.error("Task %s ended, but should run for ever", task.get_name())
