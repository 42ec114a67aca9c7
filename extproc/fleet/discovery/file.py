"""Lists in a file, followed as the file changes."""

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NoReturn

from extproc.config.load import Lists
from extproc.errors import ConfigurationError

logger = logging.getLogger(__name__)

Fingerprint = tuple[int, int, int]
Reading = Literal["ok", "invalid"]


class ChangeDetector:
    """Tells when a file has changed and come to rest again: two looks in a row that agree with each other only."""

    def __init__(self, first: Fingerprint | None) -> None:
        self._last = self._read = first

    def settled(self, now: Fingerprint | None) -> bool:
        """Take one look; whether the file is to be read again."""
        last, self._last = self._last, now
        if now != last or now == self._read:
            return False
        self._read = now
        return True


class FileSource:
    """Polls one file; see :class:`~extproc.fleet.discovery.base.Source` for the contract.

    A change of the modification time, size or inode makes it read the file again, so an edit in place and an atomic
    replacement are both seen. The file is read once it has stayed the same for one ``interval_secs``: an editor that
    writes in place may otherwise be caught half-way, with half of the workers.

    ``load`` returns the checked lists or raises :class:`ConfigurationError`; it runs on a thread, because a long list
    takes a YAML parser longer than an event loop may stand still. ``on_reading`` is told of every reading but a first
    one that is good.
    """

    def __init__(
        self,
        *,
        path: Path,
        interval_secs: float,
        load: Callable[[Path], Lists],
        on_reading: Callable[[Reading], None],
    ) -> None:
        self._path = path
        self._interval_secs = interval_secs
        self._load = load
        self._on_reading = on_reading

    async def watch(self, on_lists: Callable[[Lists], None]) -> NoReturn:
        """Report the file's lists at once and after each change, until cancelled."""
        changes = ChangeDetector(self._fingerprint())
        await self._report(on_lists, first=True)
        while True:
            await asyncio.sleep(self._interval_secs)
            if changes.settled(self._fingerprint()):
                await self._report(on_lists, first=False)

    async def _report(self, on_lists: Callable[[Lists], None], *, first: bool) -> None:
        try:
            lists = await asyncio.to_thread(self._load, self._path)
        except ConfigurationError as error:
            self._refuse(error.faults)
            return
        except OSError as error:
            self._refuse([str(error)])
            return
        if not first:
            self._on_reading("ok")
            logger.info("Read %s again: %d workers, %d models", self._path, len(lists.workers), len(lists.models))
        on_lists(lists)

    def _refuse(self, faults: list[str]) -> None:
        self._on_reading("invalid")
        for fault in faults:
            logger.error("%s cannot be used, workers and models stay as they are: %s", self._path, fault)

    def _fingerprint(self) -> Fingerprint | None:
        try:
            status = os.stat(self._path)  # noqa: PTH116 - Path.stat costs twice as much, and this runs for ever
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino
