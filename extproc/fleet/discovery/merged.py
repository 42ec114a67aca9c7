"""Several sources as one."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn

from extproc.config.load import Lists
from extproc.fleet.discovery.base import NamedSource
from extproc.fleet.discovery.left_out import LeftOut
from extproc.fleet.discovery.union import remaining, unite
from extproc.telemetry.metrics import DiscoveryMetrics
from extproc.telemetry.tasks import spawn

logger = logging.getLogger(__name__)

END_SECS = 1.0
"""How long sources that are told to end are waited for."""


class MergedSource:
    """Joins ``sources``; see :class:`~extproc.fleet.discovery.base.Source` for the contract. It is watched once.

    Nothing is reported until every source has enumerated its workers once, or ``first_report_timeout_secs`` have
    passed; a source that is late then is counted and logged. From then on each change gives the full union. What two
    sources have is taken from the first one, and what is beyond the limits from none: see
    :func:`~extproc.fleet.discovery.union.unite`; both are counted and logged once.

    ``known`` are the lists in use before: the configuration's own, checked when the service started, or those that a
    predecessor published. What of them no source has reported yet counts as a last source of all for as long as one
    has not enumerated. So neither a slow source nor a restart during an outage takes a worker away.
    """

    def __init__(
        self,
        *,
        sources: Sequence[NamedSource],
        known: Lists,
        first_report_timeout_secs: float,
        metrics: DiscoveryMetrics,
    ) -> None:
        self._sources = sources
        self._known = known
        self._timeout_secs = first_report_timeout_secs
        self._metrics = metrics
        self._lists: list[Lists | None] = [None] * len(sources)
        self._left_out = [LeftOut(source=source.name, metrics=metrics) for source in sources]
        self._changed = asyncio.Event()

    async def watch(self, on_lists: Callable[[Lists], None]) -> NoReturn:
        """Report the union at first and after each change, until cancelled."""
        tasks = [
            spawn(source.watch(partial(self._take, index)), name=f"discover by {name}", eternal=True)
            for index, (name, source) in enumerate(self._sources)
        ]
        for task in tasks:
            task.add_done_callback(lambda _: self._changed.set())
        try:
            await self._wait_for_all(tasks)
            while True:
                self._report(on_lists)
                await self._next_change(tasks)
        finally:
            await self._end(tasks)

    def _take(self, index: int, lists: Lists) -> None:
        self._metrics.reports.labels(self._sources[index].name).inc()
        self._lists[index] = lists
        self._changed.set()

    async def _wait_for_all(self, tasks: Sequence[asyncio.Task[NoReturn]]) -> None:
        """Return when every source has enumerated, or it is too late to wait on."""
        try:
            async with asyncio.timeout(self._timeout_secs):
                while self._late():
                    await self._next_change(tasks)
        except TimeoutError:
            for name in self._late():
                self._metrics.faults.labels(name, "late").inc()
            late = ", ".join(self._late())
            logger.warning("Workers are not known yet, going on with the others and those known before: %s", late)

    def _late(self) -> list[str]:
        """The sources that have not enumerated."""
        return [source.name for source, lists in zip(self._sources, self._lists, strict=True) if lists is None]

    async def _next_change(self, tasks: Sequence[asyncio.Task[NoReturn]]) -> None:
        """Wait for a source to report; raises what a source raised."""
        await self._changed.wait()
        self._changed.clear()
        for task in tasks:
            if task.done():
                task.result()

    def _report(self, on_lists: Callable[[Lists], None]) -> None:
        reported = [lists for lists in self._lists if lists is not None]
        if not reported:
            return
        self._known = remaining(self._known, reported) if self._late() else Lists()
        union = unite([*(lists or Lists() for lists in self._lists), self._known])
        for left_out, conflicts, too_many in zip(self._left_out, union.conflicts, union.too_many, strict=False):
            left_out.note("conflict", conflicts, why="as an earlier source has their address or name")
            left_out.note("too_many", too_many, why="as there are too many in all")
        on_lists(union.lists)

    async def _end(self, tasks: Sequence[asyncio.Task[NoReturn]]) -> None:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=END_SECS)
        for task in tasks:
            if not task.done():
                logger.error("Task %s does not end when it is told to", task.get_name())
