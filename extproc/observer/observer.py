"""The observer's one writer: everything that changes the fleet passes through here."""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from typing import NoReturn, Protocol

from extproc.config.load import Lists
from extproc.config.models import ModelSpec
from extproc.fleet.load.engine_load import LoraState
from extproc.fleet.registry import FleetRegistry
from extproc.fleet.worker import Fleet, Worker, WorkerKey
from extproc.observer.changes import describe_changes
from extproc.observer.publisher import Publisher

logger = logging.getLogger(__name__)

LOOK_INTERVAL_SECS = 0.25


class Engines(Protocol):
    """Who keeps what is known of the engines (:class:`extproc.observer.engines.Engines`)."""

    def placed(self, worker: Worker) -> None:
        """A new worker has got a slot."""

    def changed(self, worker: Worker) -> None:
        """What is published of a worker is not what it was."""

    def recovered(self, worker: Worker) -> None:
        """A worker is healthy again."""

    def gone(self, worker: Worker) -> None:
        """A worker is not known any more."""


class Observer:
    """Takes lists of workers and models and probe results, and publishes what follows from them.

    Lists and results only change what is known here and wake :meth:`run`, which alone publishes: however many arrive in
    one turn of the event loop, they become one document. Between them it sleeps; it wakes by itself, every
    ``LOOK_INTERVAL_SECS``, only while a worker is leaving or waits for a slot, or a write has to be tried again.

    ``watch`` is told which workers to probe; ``in_flight`` returns the requests in flight by slot. ``models`` are those
    that a predecessor published. ``engines`` is told who comes, recovers and goes, before anybody else is.
    """

    def __init__(
        self,
        *,
        registry: FleetRegistry,
        publisher: Publisher,
        in_flight: Callable[[], Sequence[int]],
        watch: Callable[[Collection[WorkerKey]], None],
        clock: Callable[[], float],
        models: tuple[ModelSpec, ...],
        engines: Engines,
    ) -> None:
        self._registry = registry
        self._publisher = publisher
        self._in_flight = in_flight
        self._watch = watch
        self._clock = clock
        self._models = models
        self._engines = engines
        self._published = Fleet(workers=registry.workers(), models=models)
        self._by_key = {worker.key: worker for worker in self._published.workers}
        self._unplaced: tuple[WorkerKey, ...] = ()
        self._woken = asyncio.Event()

    def take_lists(self, lists: Lists) -> None:
        """Take full lists of workers and models from discovery."""
        self._models = lists.models
        self._registry.adopt(lists.workers, now=self._clock(), in_flight=self._in_flight())
        self._woken.set()

    def take_result(self, key: WorkerKey, good: bool) -> None:  # noqa: FBT001 - the prober's callback
        """Take a probe's result."""
        self._registry.record(key, good=good, now=self._clock())
        if self._registry.workers() is not self._published.workers:
            self._woken.set()

    def take_lora(self, key: WorkerKey, lora: LoraState | None) -> None:
        """Take what an engine says of its LoRA adapters."""
        self._registry.note_lora(key, lora)
        if self._registry.workers() is not self._published.workers:
            self._woken.set()

    def worker_of(self, key: WorkerKey) -> Worker | None:
        """A worker as it was last published."""
        return self._by_key.get(key)

    def workers(self) -> tuple[Worker, ...]:
        """The workers last published."""
        return self._published.workers

    def models(self) -> tuple[ModelSpec, ...]:
        """The models last published."""
        return self._published.models

    def publish(self) -> None:
        """Tell everybody of the fleet as it is now; to be called once before :meth:`run`."""
        fleet = Fleet(workers=self._registry.workers(), models=self._models)
        for change in describe_changes(self._published, fleet):
            logger.info("%s", change)
        self._tell_engines(fleet.workers)
        self._published = fleet
        self._publisher.publish(fleet)
        self._watch([worker.key for worker in fleet.workers])

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
            published = self._published
            if self._registry.workers() is not published.workers or self._models is not published.models:
                self.publish()

    def _tell_engines(self, workers: tuple[Worker, ...]) -> None:
        """Before routers learn of a worker, nothing must be left of whoever had its slot."""
        before, self._by_key = self._by_key, {worker.key: worker for worker in workers}
        for key, worker in before.items():
            if key not in self._by_key:
                self._engines.gone(worker)
        for key, worker in self._by_key.items():
            known = before.get(key)
            if known is None:
                self._engines.placed(worker)
                continue
            if worker != known:
                self._engines.changed(worker)
            if worker.healthy and not known.healthy:
                self._engines.recovered(worker)

    async def _wait(self, next_look: float) -> None:
        restless = self._registry.restless or self._publisher.behind
        try:
            async with asyncio.timeout(max(0.0, next_look - self._clock()) if restless else None):
                await self._woken.wait()
        except TimeoutError:
            return
        self._woken.clear()
