"""A source that an installed package brings along, with what it reports checked."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import msgspec

from extproc.config.load import Lists
from extproc.config.model_list import find_model_faults
from extproc.config.plugins import PluginGroup
from extproc.config.workers import find_worker_faults
from extproc.errors import PluginUnusable
from extproc.fleet.discovery.base import Source
from extproc.plugins.entry_points import load
from extproc.telemetry.metrics import DiscoveryMetrics

logger = logging.getLogger(__name__)

MAX_FAULTS_LOGGED = 8


def load_factory(name: str) -> Callable[..., Any]:
    """Return what makes the source of a plugin; raises :class:`PluginUnusable`."""
    factory = load(PluginGroup.DISCOVERY, name)
    if not callable(factory):
        raise PluginUnusable(f"{name}: must be a class or a function that makes a source, not {type(factory).__name__}")
    return factory  # type: ignore[no-any-return]


class PluginSource:
    """Loads the plugin ``plugin`` and makes its source; see :class:`~extproc.fleet.discovery.base.SourcePlugin`.

    Lists that are not in order are not passed on, but logged and counted under ``name``. Raises
    :class:`PluginUnusable` when the plugin cannot be loaded or makes something else, and whatever making it raises.
    """

    def __init__(self, *, name: str, plugin: str, options: Mapping[str, Any], metrics: DiscoveryMetrics) -> None:
        self._name = name
        self._faults = metrics.faults
        self._source: Source = load_factory(plugin)(options=options, metrics=metrics)
        if not callable(getattr(self._source, "watch", None)):
            raise PluginUnusable(f"{plugin}: what it makes, {type(self._source).__name__}, has no method `watch`")

    async def watch(self, on_lists: Callable[[Lists], None]) -> NoReturn:
        """Report what the plugin reports, as long as its source runs."""
        loop = asyncio.get_running_loop()

        def take(lists: Lists) -> None:
            if asyncio.get_running_loop() is not loop:
                raise RuntimeError("lists are to be reported from the event loop that runs `watch`")
            checked = self._checked(lists)
            if checked is not None:
                on_lists(checked)

        await self._source.watch(take)

    def _checked(self, lists: Lists) -> Lists | None:
        """Return the lists as plain records of ours, or None when they are not in order."""
        try:
            checked = msgspec.convert(msgspec.to_builtins(lists), Lists)
        except (msgspec.ValidationError, TypeError, ValueError) as error:
            faults = [str(error)]
        else:
            faults = [
                str(fault) for fault in (*find_worker_faults(checked.workers), *find_model_faults(checked.models))
            ]
            if not faults:
                return checked
        self._faults.labels(self._name, "invalid").inc()
        for fault in faults[:MAX_FAULTS_LOGGED]:
            logger.error("Lists of %s are not in order, its workers stay as they are: %s", self._name, fault)
        return None
