"""A discovery source: the addresses in a file, one a line."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from extproc.config.fleet import WorkerSpec
from extproc.config.load import Lists
from extproc.telemetry.metrics import DiscoveryMetrics

LOOK_SECS = 0.05


class AddressList:
    """Reports the whole list at once and after each change; what it cannot read raises, and it is started again."""

    def __init__(self, *, options: Mapping[str, object], metrics: DiscoveryMetrics) -> None:
        self._file = Path(str(options["file"]))

    async def watch(self, on_lists: Callable[[Lists], None]) -> NoReturn:
        """Call ``on_lists`` until cancelled."""
        known: list[str] | None = None
        while True:
            addresses = self._file.read_text().split()
            if addresses != known:
                known = addresses
                on_lists(Lists(workers=tuple([WorkerSpec(address=address, models=("tiny",)) for address in addresses])))
            await asyncio.sleep(LOOK_SECS)
