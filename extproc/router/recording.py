"""Writes what a router has recorded, now and then and on a thread, so that no request waits for a disk."""

import asyncio
import logging
import os
from contextlib import suppress
from pathlib import Path
from time import sleep

from extproc.recording.part_writer import PartWriter
from extproc.recording.recorder import Batch, Recorder
from extproc.shm.processes import ProcessRow
from extproc.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

FLUSH_SECS = 0.25


class RecordKeeper:
    """Keeps the records of one router. Its ``row`` tells others whether it still holds some."""

    def __init__(self, *, recorder: Recorder, directory: Path, row: ProcessRow, metrics: Metrics) -> None:
        self._recorder = recorder
        self._writer = PartWriter(directory=directory, slot=row.slot, pid=os.getpid(), sleep=sleep)
        self._row = row
        self._count = metrics.recorded_requests
        self._finishing = asyncio.Event()
        self._complained = False

    async def run(self) -> None:
        """Write until :meth:`finish`, and then what is left; requests that are still under way then have no end."""
        while not self._finishing.is_set():
            await self._flush()
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECS):
                    await self._finishing.wait()
        self._recorder.close()
        await self._flush()

    def finish(self) -> None:
        """Let :meth:`run` come to its end. It is not to be cancelled: a thread may be writing."""
        self._finishing.set()

    async def _flush(self) -> None:
        for batch in self._recorder.take():
            await self._write(batch)
        if self._row.recording and not self._recorder.holds:
            self._row.end_recording()

    async def _write(self, batch: Batch) -> None:
        if batch.left_out:
            self._count.labels("no_room").inc(batch.left_out)
        try:
            result = await asyncio.to_thread(self._writer.write, batch)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a record, the router goes on
            self._writer.failed(batch)
            self._count.labels("failed").inc(len(batch.requests))
            if not self._complained:
                self._complained = True
                logger.error("Recorded requests cannot be written: %s: %s", type(error).__name__, error)  # noqa: TRY400 - most often the disk is at fault
        else:
            self._complained = False
            self._count.labels("written").inc(result.written)
            if result.full:
                self._count.labels("full").inc(result.full)
        finally:
            self._recorder.written(batch)
