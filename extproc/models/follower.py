"""Keeps a shelf of models in step with the configuration and with the models' files, on a thread."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import NoReturn

from extproc.config.models import ModelSpec
from extproc.models.shelf import ModelShelf
from extproc.telemetry.tasks import spawn

logger = logging.getLogger(__name__)


class ModelFollower:
    """Updates ``shelf`` by what ``specs`` returns: once with :meth:`begin`, then for ever with :meth:`run`."""

    def __init__(self, *, shelf: ModelShelf, specs: Callable[[], Sequence[ModelSpec]], interval_secs: float) -> None:
        self._shelf = shelf
        self._specs = specs
        self._interval_secs = interval_secs
        self._first: asyncio.Task[None] | None = None

    async def begin(self, *, patience_secs: float) -> None:
        """Load the models; what takes longer than ``patience_secs`` goes on in the background."""
        self._first = spawn(asyncio.to_thread(self._shelf.update, self._specs()), name="load models")
        done, _ = await asyncio.wait({self._first}, timeout=patience_secs)
        if done:
            await self._first
        else:
            logger.warning("Models are still being loaded; until they are, their requests go without tokens")

    async def run(self) -> NoReturn:
        """Look for changes, until cancelled; :meth:`begin` comes first."""
        assert self._first is not None
        await self._first
        while True:
            await asyncio.sleep(self._interval_secs)
            await asyncio.to_thread(self._shelf.update, self._specs())
