"""Asks workers over HTTP whether they are healthy."""

import asyncio
from collections.abc import Callable, Collection
from random import Random
from typing import Literal

from extproc.config.fleet import FleetSettings
from extproc.fleet.health.http_status import fetch_status
from extproc.fleet.worker import WorkerKey
from extproc.fleet.worker_http import split_address
from extproc.fleet.worker_tasks import Server, WorkerTasks
from extproc.telemetry.metrics import Metrics

ProbeResult = Literal["ok", "bad_status", "timeout", "unreachable"]

MAX_CONCURRENT_PROBES = 256
JITTER = 0.1
SUSPICION_SECS = 0.1
"""Time to the next probe after one that has failed, while the worker still counts as healthy."""


class HealthProber:
    """Probes every watched server on a jittered interval and reports each result for all workers that it is.

    One task a server, so that a server never has two probes in flight; ``MAX_CONCURRENT_PROBES`` bounds all of them
    together. A worker's first probe starts at once. Every probe opens a connection and closes it again: that proves
    that the server still accepts, and never meets an idle connection that it (vLLM: after 5 s) is closing.

    ``on_result`` is called from the event loop. :meth:`close` ends it.
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
        self._tasks = WorkerTasks("probe", self._probe_for_ever)

    async def close(self) -> None:
        """Stop probing."""
        await self._tasks.close()

    def watch(self, workers: Collection[WorkerKey]) -> None:
        """Probe exactly these workers from here on."""
        self._tasks.watch(workers)

    async def _probe_for_ever(self, server: Server) -> None:
        failures = 0
        while True:
            async with self._permits:
                result = await self._probe(server.address)
            for key in server.workers:
                self._metrics.probes.labels(key.id, result).inc()
                self._on_result(key, result == "ok")
            failures = 0 if result == "ok" else failures + 1
            pause_secs = self._settings.health_interval_secs
            if 0 < failures < self._settings.unhealthy_threshold:
                # Requests go there until the verdict is in.
                pause_secs = min(pause_secs, SUSPICION_SECS)
            await asyncio.sleep(pause_secs * self._random.uniform(1 - JITTER, 1 + JITTER))

    async def _probe(self, address: str) -> ProbeResult:
        host, port = split_address(address)
        try:
            async with asyncio.timeout(self._settings.health_timeout_secs):
                status = await fetch_status(host=host, port=port, path=self._settings.health_path)
        except TimeoutError:
            return "timeout"
        except (OSError, ValueError):
            return "unreachable"
        return "ok" if 200 <= status < 300 else "bad_status"  # noqa: PLR2004 - the 2xx class
