"""Asks workers over HTTP for the load of their engines."""

import asyncio
import logging
from collections.abc import Callable, Collection
from random import Random
from typing import Literal, NamedTuple

from extproc.config.fleet import FleetSettings
from extproc.fleet.load.connection import WorkerConnection
from extproc.fleet.load.engine_load import EngineLoad
from extproc.fleet.load.exposition import MAX_EXPOSITION_BYTES, Exposition, ExpositionError
from extproc.fleet.worker import WorkerKey
from extproc.fleet.worker_http import split_address
from extproc.fleet.worker_tasks import Server, WorkerTasks
from extproc.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

ScrapeResult = Literal["ok", "bad_status", "timeout", "unreachable", "unreadable"]

MAX_CONCURRENT_SCRAPES = 256
"""Of ``MAX_EXPOSITION_BYTES`` each at most. When more servers than this hang, the others are read less often."""

JITTER = 0.1
ACCEPT = "text/plain;version=0.0.4"


class LoadScraper:
    """Reads the load of every watched worker on a jittered interval and reports each reading.

    One task a server, so that a server is never asked twice at a time, however many ranks it has;
    ``MAX_CONCURRENT_SCRAPES`` bounds all of them together. It is first asked at once, and over one connection, which it
    keeps at an interval below the 5 s after which vLLM closes idle ones.

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

    async def _scrape_for_ever(self, server: Server) -> None:
        host, port = split_address(server.address)
        connection = WorkerConnection(host=host, port=port, accept=ACCEPT, max_body_bytes=MAX_EXPOSITION_BYTES)
        unreadable: set[WorkerKey] = set()
        try:
            while True:
                async with self._permits:
                    page = await self._scrape(connection)
                for key in server.workers:
                    self._report(key, _reading(page, key), unreadable)
                await asyncio.sleep(self._settings.load_interval_secs * self._random.uniform(1 - JITTER, 1 + JITTER))
        finally:
            connection.close()

    def _report(self, key: WorkerKey, reading: "_Reading", unreadable: set[WorkerKey]) -> None:
        self._metrics.load_scrapes.labels(key.id, reading.result).inc()
        good = reading.load is not None
        if good is (key in unreadable):
            (unreadable.discard if good else unreadable.add)(key)
            _log_change(key, result=reading.result, why=reading.why)
        self._on_load(key, reading.load)

    async def _scrape(self, connection: WorkerConnection) -> "Exposition | _Reading":
        """Return the page, or what came of asking for it."""
        try:
            async with asyncio.timeout(self._settings.load_timeout_secs):
                response = await connection.get(self._settings.load_path)
            if not 200 <= response.status < 300:  # noqa: PLR2004 - the 2xx class
                return _Reading("bad_status", why=response.status)
            return Exposition(response.body)
        except TimeoutError:
            return _Reading("timeout", why=f"{self._settings.load_timeout_secs:g} s")
        except OSError as error:
            return _Reading("unreachable", why=error)
        except ValueError as error:
            return _Reading("unreadable", why=error)


class _Reading(NamedTuple):
    """What came of one reading for one worker: the load, or why there is none."""

    result: ScrapeResult
    load: EngineLoad | None = None
    why: object = ""


def _reading(page: Exposition | _Reading, key: WorkerKey) -> _Reading:
    if isinstance(page, _Reading):
        return page
    try:
        return _Reading("ok", page.load(rank=key.rank, ranks=key.ranks))
    except ExpositionError as error:
        return _Reading("unreadable", why=error)


def _log_change(key: WorkerKey, *, result: ScrapeResult, why: object) -> None:
    if result == "ok":
        logger.info("The load of worker %s can be read", key.id)
    else:
        logger.warning("The load of worker %s cannot be read: %s: %s", key.id, result, why)
