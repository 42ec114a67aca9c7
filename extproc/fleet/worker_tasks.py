"""One task for each server that is watched: what probes and readings of loads have in common."""

import asyncio
from collections.abc import Callable, Collection, Coroutine
from typing import Any, NamedTuple

from extproc.fleet.worker import WorkerKey
from extproc.telemetry.tasks import spawn


class Server(NamedTuple):
    """An address that is asked once for all who are there: the data parallel ranks of one server, as a rule."""

    address: str
    workers: tuple[WorkerKey, ...]


class WorkerTasks:
    """Keeps ``run`` going for exactly the workers it is told of; ``what`` names the tasks, as a verb.

    One task a server, so that nothing is done twice at a time for any. It starts anew when others are there. ``run``
    must not return.
    """

    def __init__(self, what: str, run: Callable[[Server], Coroutine[Any, Any, None]]) -> None:
        self._what = what
        self._run = run
        self._tasks: dict[Server, asyncio.Task[None]] = {}

    async def close(self) -> None:
        """End all tasks, and wait for their end."""
        tasks = list(self._tasks.values())
        self.watch(())
        await asyncio.gather(*tasks, return_exceptions=True)

    def watch(self, workers: Collection[WorkerKey]) -> None:
        """Run for exactly these workers from here on; the task of a server that has a new one starts at once."""
        at: dict[str, list[WorkerKey]] = {}
        for key in workers:
            at.setdefault(key.address, []).append(key)
        wanted = {Server(address, tuple(sorted(keys))) for address, keys in at.items()}
        for server in self._tasks.keys() - wanted:
            self._tasks.pop(server).cancel()
        for server in wanted - self._tasks.keys():
            names = " ".join([key.id for key in server.workers])
            self._tasks[server] = spawn(self._run(server), name=f"{self._what} {server.address} {names}", eternal=True)
