"""Asks workers over HTTP whether they are healthy."""

import asyncio
import logging
from collections.abc import Callable, Collection
from random import Random
from types import TracebackType
from typing import Literal, Self

import aiohttp
from yarl import URL

from extproc.config.fleet import FleetSettings
from extproc.fleet.worker import WorkerKey
from extproc.telemetry.metrics import Metrics
from extproc.telemetry.tasks import spawn

logger = logging.getLogger(__name__)

ProbeResult = Literal["ok", "bad_status", "timeout", "unreachable"]

MAX_CONCURRENT_PROBES = 256
JITTER = 0.1


class HealthProber:
    """Probes every watched worker on a jittered interval and reports each result.

    One task a worker, so that a worker never has two probes in flight; ``MAX_CONCURRENT_PROBES`` bounds all of them
    together. A worker's first probe starts at once. Every probe opens a connection and closes it again: that proves
    that the worker still accepts, and never meets an idle connection that the worker (vLLM: after 5 s) is closing.

    Use as an async context manager; ``on_result`` is called from the event loop.
    """

    def __init__(
        self,
        *,
        settings: FleetSettings,
        metrics: Metrics,
        random: Random,
        on_result: Callable[[WorkerKey, bool], None],
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._random = random
        self._on_result = on_result
        self._permits = asyncio.Semaphore(MAX_CONCURRENT_PROBES)
        self._tasks: dict[WorkerKey, asyncio.Task[None]] = {}
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True, limit=0),
            timeout=aiohttp.ClientTimeout(total=self._settings.health_timeout_secs),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = list(self._tasks.values())
        self.watch(())
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._session.close()

    def watch(self, workers: Collection[WorkerKey]) -> None:
        """Probe exactly these workers from here on."""
        wanted = set(workers)
        for key in self._tasks.keys() - wanted:
            self._tasks.pop(key).cancel()
        for key in wanted - self._tasks.keys():
            self._tasks[key] = spawn(self._probe_for_ever(key), name=f"probe {key.id} {key.address}", eternal=True)

    async def _probe_for_ever(self, key: WorkerKey) -> None:
        url = URL(f"http://{key.address}{self._settings.health_path}")
        while True:
            async with self._permits:
                result = await self._probe(url)
            self._metrics.probes.labels(key.id, result).inc()
            self._on_result(key, result == "ok")
            await asyncio.sleep(self._settings.health_interval_secs * self._random.uniform(1 - JITTER, 1 + JITTER))

    async def _probe(self, url: URL) -> ProbeResult:
        try:
            # The body is not read: closing the connection discards it, however long it is.
            async with self._session.get(url, allow_redirects=False) as response:
                return "ok" if 200 <= response.status < 300 else "bad_status"  # noqa: PLR2004 - the 2xx class
        except TimeoutError:
            return "timeout"
        except (aiohttp.ClientError, OSError):
            return "unreachable"
        except Exception:
            # The boundary of one probe: a fault of the client library counts against this probe, not all later ones.
            logger.exception("A probe of %s failed in an unexpected way", url)
            return "unreachable"
