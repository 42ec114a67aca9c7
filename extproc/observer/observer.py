"""The observer's one writer: everything that changes the fleet passes through here."""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from typing import NoReturn

from extproc.config.fleet import WorkerSpec
from extproc.fleet.registry import FleetRegistry
from extproc.fleet.worker import Worker, WorkerKey
from extproc.observer.changes import describe_changes
from extproc.observer.publisher import Publisher

logger = logging.getLogger(__name__)

LOOK_INTERVAL_SECS = 0.25


class Observer:
    """Takes worker lists and probe results, and publishes what follows from them.

    Lists and results only change the registry and wake :meth:`run`, which alone publishes: however many arrive in one
    turn of the event loop, they become one document. Between them it sleeps; it wakes by itself, every
    ``LOOK_INTERVAL_SECS``, only while a worker is leaving or waits for a slot, or a write has to be tried again.

    ``watch`` is told which workers to probe; ``in_flight`` returns the requests in flight by slot.
    """

    def __init__(
        self,
        *,
        registry: FleetRegistry,
        publisher: Publisher,
        in_flight: Callable[[], Sequence[int]],
        watch: Callable[[Collection[WorkerKey]], None],
        clock: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._publisher = publisher
        self._in_flight = in_flight
        self._watch = watch
        self._clock = clock
        self._published = registry.workers()
        self._unplaced: tuple[WorkerKey, ...] = ()
        self._woken = asyncio.Event()

    def take_list(self, specs: Sequence[WorkerSpec]) -> None:
        """Take a full list of workers from discovery."""
        self._registry.adopt(specs, now=self._clock(), in_flight=self._in_flight())
        self._woken.set()

    def take_result(self, key: WorkerKey, good: bool) -> None:  # noqa: FBT001 - the prober's callback
        """Take a probe's result."""
        self._registry.record(key, good=good, now=self._clock())
        if self._registry.workers() is not self._published:
            self._woken.set()

    def workers(self) -> tuple[Worker, ...]:
        """The fleet last published."""
        return self._published

    def publish(self) -> None:
        """Tell everybody of the fleet as it is now; to be called once before :meth:`run`."""
        workers = self._registry.workers()
        for change in describe_changes(self._published, workers):
            logger.info("%s", change)
        self._published = workers
        self._publisher.publish(workers)
        self._watch([worker.key for worker in workers])

    async def run(self) -> NoReturn:
        """Publish what changes, until cancelled."""
        next_look = self._clock() + LOOK_INTERVAL_SECS
        while True:
            await self._wait(next_look)
            if self._clock() >= next_look:
                # Looks keep their distance even when changes come fast: see FleetRegistry.look.
                next_look = self._clock() + LOOK_INTERVAL_SECS
                self._registry.look(now=self._clock(), in_flight=self._in_flight())
                if self._publisher.behind:
                    self._publisher.retry()
            if self._registry.unplaced != self._unplaced:
                self._unplaced = self._registry.unplaced
                logger.warning("%d workers wait for a free slot", len(self._unplaced))
            if self._registry.workers() is not self._published:
                self.publish()

    async def _wait(self, next_look: float) -> None:
        restless = self._registry.restless or self._publisher.behind
        try:
            async with asyncio.timeout(max(0.0, next_look - self._clock()) if restless else None):
                await self._woken.wait()
        except TimeoutError:
            return
        self._woken.clear()
