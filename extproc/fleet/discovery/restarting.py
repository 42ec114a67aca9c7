"""Keeps a source going: one that fails, or ends, is made and watched anew."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import NoReturn

from extproc.config.load import Lists
from extproc.errors import PluginUnusable
from extproc.fleet.discovery.base import FaultReason, Source
from extproc.fleet.discovery.retry import Retry
from extproc.telemetry.metrics import DiscoveryMetrics

logger = logging.getLogger(__name__)

SETTLED_RUNS = 2
"""A source that ran for this many of the longest waits ends the row of its failures."""


class RestartingSource:
    """Watches what ``make`` returns; see :class:`~extproc.fleet.discovery.base.Source` for the contract.

    Whatever the source or ``make`` raises, ``SystemExit`` included, is logged and counted, and so is a source that
    returns: it is made again after a wait by ``retry``. Meanwhile nothing is reported, so its workers stay. A source
    that fails gets its whole traceback into the log once in a row.

    ``sleep`` is how waits are spent and ``clock`` tells seconds, so that a row of failures ends when one ran well.
    """

    def __init__(
        self,
        *,
        name: str,
        make: Callable[[], Source],
        retry: Retry,
        metrics: DiscoveryMetrics,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._name = name
        self._make = make
        self._retry = retry
        self._faults = metrics.faults
        self._sleep = sleep
        self._clock = clock

    async def watch(self, on_lists: Callable[[Lists], None]) -> NoReturn:
        """Report what the source reports, until cancelled."""
        task = asyncio.current_task()
        assert task is not None
        failures = 0
        while True:
            started = self._clock()
            reason, error = await self._run(on_lists)
            if task.cancelling():
                # Whatever the source made of it.
                raise asyncio.CancelledError
            if self._clock() - started >= SETTLED_RUNS * self._retry.longest_secs:
                failures = 0
            failures += 1
            wait_secs = self._retry.wait_secs(failures)
            self._faults.labels(self._name, reason).inc()
            logger.error(
                "Discovery by %s %s, its workers stay; trying again in %g s: %s",
                self._name,
                {"unusable": "cannot begin", "ended": "ended"}.get(reason, "failed"),
                wait_secs,
                error if str(error) else type(error).__name__,
                exc_info=error if failures == 1 and reason == "failed" else None,
            )
            await self._sleep(wait_secs)

    async def _run(self, on_lists: Callable[[Lists], None]) -> tuple[FaultReason, BaseException]:
        """Make a source and watch it until it is over; return why."""
        over = False

        def report(lists: Lists) -> None:
            if over:
                raise RuntimeError("this source has failed; its successor reports")
            on_lists(lists)

        try:
            await self._make().watch(report)
        except PluginUnusable as error:
            return "unusable", error
        except (Exception, SystemExit, asyncio.CancelledError) as error:  # noqa: BLE001 - others' code ends here
            return "failed", error
        finally:
            over = True
        return "ended", RuntimeError("it should run for ever")
