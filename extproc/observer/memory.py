"""Keeps what is known of the engines in a file, and begins with it."""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np

from extproc.config.kv_events import KvEventsSettings
from extproc.fleet.worker import Worker, WorkerKey
from extproc.index.block_hash import Hashes
from extproc.index.depths import Floats
from extproc.index.prefix_index import PrefixIndex
from extproc.observer import snapshot
from extproc.observer.engine_rows import LEARNED, EngineRows
from extproc.observer.kv_events import KvEvents
from extproc.observer.snapshot import KnownWorker, Snapshot
from extproc.shm.worker_table import Outcome, WorkerTable

logger = logging.getLogger(__name__)

LEARNED_FROM_ANSWERS = (
    Outcome.SEAT_SECS, Outcome.PREFILL_RATE, Outcome.LONE_SECS, Outcome.ANSWER_SECS, Outcome.PREFILL_STRETCH,
)  # fmt: skip
NOTHING: tuple[Hashes, Floats] = np.empty(0, np.uint64), np.empty(0, np.float64)


class EngineMemory:
    """The snapshot of one service: read once at the start, then written by one process.

    With ``fresh`` the shared memory is new: else it has all this itself, besides what is known of the engines' blocks.
    """

    def __init__(
        self,
        *,
        settings: KvEventsSettings,
        fresh: bool,
        table: WorkerTable,
        prefixes: PrefixIndex,
        rows: EngineRows,
        events: KvEvents,
        workers: Callable[[], tuple[Worker, ...]],
    ) -> None:
        self._path = Path(settings.snapshot_file) if settings.snapshot_file else None
        self._interval_secs = settings.snapshot_interval_secs
        self._table = table
        self._prefixes = prefixes
        self._rows = rows
        self._events = events
        self._workers = workers
        self._known: dict[WorkerKey, KnownWorker] = {}
        self._writing = threading.Lock()
        found = None
        if self._path is not None:
            found = snapshot.read(self._path, max_age_secs=settings.snapshot_max_age_secs)
        if found is not None:
            logger.info("Beginning with what was known of %d workers", len(found.workers))
            events.remember({one.key: one.blocks for one in found.workers if one.blocks is not None})
            if fresh:
                self._known = {one.key: one for one in found.workers}

    def placed(self, worker: Worker) -> None:
        """Give a worker that comes what was known of it."""
        known = self._known.pop(worker.key, None)
        if known is None:
            return
        self._rows.restore(worker, _finite(known.engine))
        learned = _finite(known.outcome)
        for number in LEARNED_FROM_ANSWERS:
            self._table.outcomes[worker.slot, number] = learned.get(number.name.lower(), 0.0)
        try:
            hashes, ages = snapshot.unpack(known.claims), snapshot.unpack(known.ages)
            if hashes.dtype != np.uint64 or ages.dtype != np.float64 or hashes.shape != ages.shape:
                raise ValueError("no blocks and their ages")
        except ValueError as error:
            logger.warning("What worker %s was sent is not known: %s", worker.id, error)
            return
        self._prefixes.claim(hashes.astype(np.uint64), worker.slot, ages=np.nan_to_num(ages.astype(np.float64)))

    async def run(self) -> NoReturn:
        """Write from time to time, until cancelled."""
        while True:
            await asyncio.sleep(self._interval_secs)
            if self._path is not None:
                known = []
                for worker in self._workers():
                    known.append(self._known_of(worker))
                    # Each takes milliseconds, and others wait.
                    await asyncio.sleep(0)
                await asyncio.to_thread(self._write, self._path, known)

    def write(self) -> None:
        """Write at once, as at the end."""
        if self._path is not None:
            self._write(self._path, [self._known_of(worker) for worker in self._workers()])

    def _write(self, path: Path, known: list[KnownWorker]) -> None:
        try:
            # At the end, the last one in time may still be under way.
            with self._writing:
                snapshot.write(path, Snapshot(time.time(), known))
        except OSError:
            logger.exception("What is known of the engines cannot be written")

    def _known_of(self, worker: Worker) -> KnownWorker:
        blocks = self._events.known_blocks(worker.key)
        hashes, ages = NOTHING if blocks is not None else self._prefixes.claims(worker.slot)
        engine, outcome = self._table.engines[worker.slot], self._table.outcomes[worker.slot]
        return KnownWorker(
            key=worker.key,
            blocks=blocks,
            claims=snapshot.pack(hashes),
            ages=snapshot.pack(ages),
            engine={number.name.lower(): float(engine[number]) for number in LEARNED},
            outcome={number.name.lower(): float(outcome[number]) for number in LEARNED_FROM_ANSWERS},
        )


def _finite(numbers: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in numbers.items() if math.isfinite(value) and value >= 0}
