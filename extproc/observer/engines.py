"""All that is known of the engines, joined: what they report, what they say of their caches, and what is kept of it."""

from collections.abc import Callable, Sequence
from time import monotonic
from typing import NoReturn

from extproc.config.kv_events import KvEventsSettings
from extproc.config.models import ModelSpec
from extproc.fleet.load.engine_load import EngineLoad
from extproc.fleet.worker import Worker, WorkerKey
from extproc.index.prefix_index import PrefixIndex
from extproc.observer.engine_rows import EngineRows
from extproc.observer.kv_events import KvEvents
from extproc.observer.memory import EngineMemory
from extproc.shm.worker_table import WorkerTable
from extproc.telemetry.metrics import KvEventMetrics


class Engines:
    """What the observer tells of workers, and of the readings of their engines.

    ``inherited`` are the workers that a predecessor has published: their rows and what they were sent are in the shared
    memory, but nobody follows their events. None: there was none. ``worker_of`` finds a worker as it was last
    published, ``workers`` returns all of them, ``models`` the configured models.
    """

    def __init__(
        self,
        *,
        settings: KvEventsSettings,
        table: WorkerTable,
        prefixes: PrefixIndex,
        inherited: Sequence[Worker] | None,
        worker_of: Callable[[WorkerKey], Worker | None],
        workers: Callable[[], tuple[Worker, ...]],
        models: Callable[[], Sequence[ModelSpec]],
    ) -> None:
        self._inherited = inherited or ()
        self._events = KvEvents(
            settings=settings,
            table=table,
            prefixes=prefixes,
            models=models,
            metrics=KvEventMetrics(),
            clock=monotonic,
        )
        self._rows = EngineRows(
            table=table,
            prefixes=prefixes,
            events=self._events,
            worker_of=worker_of,
            models=models,
            clock=monotonic,
        )
        self._memory = EngineMemory(
            settings=settings,
            fresh=inherited is None,
            table=table,
            prefixes=prefixes,
            rows=self._rows,
            events=self._events,
            workers=workers,
        )

    def begin(self) -> None:
        """Go on with the workers of a predecessor. To be called in the event loop, before anything else."""
        for worker in self._inherited:
            self._events.placed(worker)

    def placed(self, worker: Worker) -> None:
        """A new worker has got a slot."""
        self._rows.placed(worker)
        self._events.placed(worker)
        # What is remembered of it comes last: the others begin by forgetting.
        self._memory.placed(worker)

    def changed(self, worker: Worker) -> None:
        """What is published of a worker is not what it was."""
        self._events.changed(worker)

    def recovered(self, worker: Worker) -> None:
        """A worker is healthy again."""
        self._rows.recovered(worker)
        self._events.recovered(worker)

    def gone(self, worker: Worker) -> None:
        """A worker is not known any more."""
        self._events.gone(worker)
        self._rows.gone(worker)

    def take_load(self, key: WorkerKey, load: EngineLoad | None) -> None:
        """Take a reading, None when it failed."""
        self._rows.take(key, load)
        if load is not None:
            self._events.take_load(key, load)

    async def follow(self) -> NoReturn:
        """Follow the engines' events, until cancelled."""
        await self._events.run()

    async def remember(self) -> NoReturn:
        """Write down from time to time what is known, until cancelled."""
        await self._memory.run()

    async def close(self) -> None:
        """Write down what is known, and follow nobody any more."""
        self._memory.write()
        await self._events.close()
