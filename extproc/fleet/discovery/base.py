"""What a source of workers and models promises to its one consumer, and what a plugin that is one gets."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, NoReturn, Protocol

from extproc.config.load import Lists
from extproc.telemetry.metrics import DiscoveryMetrics

FaultReason = Literal["invalid", "failed", "ended", "unusable", "late", "conflict", "too_many"]
"""Labels of ``extproc_discovery_faults_total``."""


class Source(Protocol):
    """Tells which workers and models there shall be.

    The contract, for every source:

    * It enumerates everything first, then reports changes. Each report is the *full* lists, never a difference, so a
      lost or merged report costs nothing and the consumer needs no history.
    * Reports come in order, from the event loop, from the one task that runs ``watch``. There is one consumer.
    * The lists are checked: ids, addresses and the names of models are unique, addresses usable.
    * What it cannot read it does not report. It logs and counts the fault and stays silent, and the consumer keeps the
      lists it has: a broken source never empties a fleet.
    * Cancelling ``watch`` ends it, soon and with nothing left behind. Before that it may be started again only after it
      has raised or returned, which is a fault.
    """

    async def watch(self, on_lists: Callable[[Lists], None]) -> NoReturn:
        """Call ``on_lists`` with the full lists, at once and after each change, until cancelled."""


class NamedSource(NamedTuple):
    """A source with its name in logs and metrics."""

    name: str
    source: Source


class SourcePlugin(Protocol):
    """What an entry point of the group ``extproc.discovery`` names: a class, or a function, that makes a source.

    A package's ``pyproject.toml`` has it as::

        [project.entry-points."extproc.discovery"]
        consul = "extproc_consul:ConsulSource"

    The source keeps the contract above, with two reliefs: lists that are not in order are refused, counted and logged,
    so it may leave checking them to us; and when ``watch`` raises or returns, a new source is made and watched after a
    wait that grows with every failure in a row, while its workers stay.

    Workers are :class:`extproc.config.fleet.WorkerSpec`, in a :class:`extproc.config.load.Lists`. The source runs in
    the event loop of the observer process: what blocks belongs on a thread.
    """

    def __call__(self, *, options: Mapping[str, Any], metrics: DiscoveryMetrics) -> Source:
        """Make a source; raise whatever says best why ``options`` cannot be used.

        ``options`` is the JSON object of its entry in the configuration's ``plugins``, empty when there is none. In
        ``metrics.faults`` it may count faults of its own, under its own name and a few reasons.
        """
