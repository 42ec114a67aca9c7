"""Asks workers over HTTP for the load of their engines."""

import asyncio
import logging
from collections.abc import Callable, Collection
from random import Random
from typing import Literal

from extproc.config.fleet import FleetSettings
from extproc.fleet.load.connection import WorkerConnection
from extproc.fleet.load.engine_load import EngineLoad
from extproc.fleet.load.exposition import MAX_EXPOSITION_BYTES, read_engine_load
from extproc.fleet.worker import WorkerKey
from extproc.fleet.worker_http import split_address
from extproc.fleet.worker_tasks import WorkerTasks
from extproc.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

ScrapeResult = Literal["ok", "bad_status", "timeout", "unreachable", "unreadable"]

MAX_CONCURRENT_SCRAPES = 256
"""Of ``MAX_EXPOSITION_BYTES`` each at most. When more workers than this hang, the others are read less often."""

JITTER = 0.1
ACCEPT = "text/plain;version=0.0.4"


class LoadScraper:
    """Reads the load of every watched worker on a jittered interval and reports each reading.

    One task a worker, so that a worker is never asked twice at a time; ``MAX_CONCURRENT_SCRAPES`` bounds all of them
    together. A worker is first asked at once. It is asked over one connection, which it keeps at an interval below the
    5 s after which vLLM closes idle ones.

    ``on_load`` is called from the event loop, with None when there was nothing to read; why is counted, and logged
    when it begins and when it is over. An interval of 0 watches nobody. :meth:`close` ends it.
    """

    def __init__(
        self,
        *,
        settings: FleetSettings,
        metrics: Metrics,
        random: Random,
        on_load: Callable[[WorkerKey, EngineLoad | None], None],
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._random = random
        self._on_load = on_load
        self._permits = asyncio.Semaphore(MAX_CONCURRENT_SCRAPES)
        self._tasks = WorkerTasks("scrape", self._scrape_for_ever)

    async def close(self) -> None:
        """Stop reading."""
        await self._tasks.close()

    def watch(self, workers: Collection[WorkerKey]) -> None:
        """Read the load of exactly these workers from here on."""
        self._tasks.watch(workers if self._settings.load_interval_secs else ())

    async def _scrape_for_ever(self, key: WorkerKey) -> None:
        host, port = split_address(key.address)
        connection = WorkerConnection(host=host, port=port, accept=ACCEPT, max_body_bytes=MAX_EXPOSITION_BYTES)
        good = True
        try:
            while True:
                async with self._permits:
                    result, load, why = await self._scrape(connection)
                self._metrics.load_scrapes.labels(key.id, result).inc()
                if good is not (load is not None):
                    good = load is not None
                    _log_change(key, result=result, why=why)
                self._on_load(key, load)
                await asyncio.sleep(self._settings.load_interval_secs * self._random.uniform(1 - JITTER, 1 + JITTER))
        finally:
            connection.close()

    async def _scrape(self, connection: WorkerConnection) -> tuple[ScrapeResult, EngineLoad | None, object]:
        """Return what came of one reading, the load, and why there is none."""
        try:
            async with asyncio.timeout(self._settings.load_timeout_secs):
                response = await connection.get(self._settings.load_path)
            if not 200 <= response.status < 300:  # noqa: PLR2004 - the 2xx class
                return "bad_status", None, response.status
            return "ok", read_engine_load(response.body), ""
        except TimeoutError:
            return "timeout", None, f"{self._settings.load_timeout_secs:g} s"
        except OSError as error:
            return "unreachable", None, error
        except ValueError as error:
            return "unreadable", None, error


def _log_change(key: WorkerKey, *, result: ScrapeResult, why: object) -> None:
    if result == "ok":
        logger.info("The load of worker %s can be read", key.id)
    else:
        logger.warning("The load of worker %s cannot be read: %s: %s", key.id, result, why)
