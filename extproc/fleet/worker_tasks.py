"""One task for each worker that is watched: what probes and readings of loads have in common."""

import asyncio
from collections.abc import Callable, Collection, Coroutine
from typing import Any

from extproc.fleet.worker import WorkerKey
from extproc.telemetry.tasks import spawn


class WorkerTasks:
    """Keeps ``run`` going for exactly the workers it is told of; ``what`` names the tasks, as a verb.

    One task a worker, so that nothing is done twice at a time for any. ``run`` must not return.
    """

    def __init__(self, what: str, run: Callable[[WorkerKey], Coroutine[Any, Any, None]]) -> None:
        self._what = what
        self._run = run
        self._tasks: dict[WorkerKey, asyncio.Task[None]] = {}

    async def close(self) -> None:
        """End all tasks, and wait for their end."""
        tasks = list(self._tasks.values())
        self.watch(())
        await asyncio.gather(*tasks, return_exceptions=True)

    def watch(self, workers: Collection[WorkerKey]) -> None:
        """Run for exactly these workers from here on; a new one's task starts at once."""
        wanted = set(workers)
        for key in self._tasks.keys() - wanted:
            self._tasks.pop(key).cancel()
        for key in wanted - self._tasks.keys():
            self._tasks[key] = spawn(self._run(key), name=f"{self._what} {key.id} {key.address}", eternal=True)
