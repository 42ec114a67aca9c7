"""The workers of one process, from their ready lines to the end of the last one."""

import asyncio
import signal
import sys
from typing import TYPE_CHECKING

from workers.engine.device import Device
from workers.simulated.faults import Behaviour
from workers.simulated.settings import Settings
from workers.simulated.worker import Worker

if TYPE_CHECKING:
    from workers.simulated.kv_events import Publishers


class Fleet:
    """Simulated workers on one event loop. ``SIGTERM`` and ``SIGINT`` stop them, ``SIGUSR1`` ends all misbehaviour.

    Raises ``OSError`` when an address cannot be had, and ``ProfileError``.
    """

    def __init__(self, settings: Settings) -> None:
        profile = settings.load_profile()
        self._publishers = _publishers() if settings.kv_events_endpoint else None
        shared = Device()
        self._workers: list[Worker] = []
        for number in range(settings.workers):
            self._workers.append(
                Worker(
                    settings=settings.of_worker(number),
                    profile=profile,
                    devices=(lambda: shared) if settings.device_share else Device,
                    publishers=self._publishers,
                )
            )
        self._signalled = asyncio.Event()
        self._stopping = False

    async def run(self) -> None:
        """Serve until told to stop."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        loop.add_signal_handler(signal.SIGINT, self._stop)
        loop.add_signal_handler(signal.SIGUSR1, self._signalled.set)
        for worker in self._workers:
            await worker.start()
            sys.stdout.write(f"simulated worker {worker.name} ready on {worker.address}\n")
        sys.stdout.flush()
        while True:
            await self._signalled.wait()
            self._signalled.clear()
            if self._stopping:
                break
            for worker in self._workers:
                await worker.behave(Behaviour())
        async with asyncio.TaskGroup() as group:
            for worker in self._workers:
                group.create_task(worker.drain())
        if self._publishers is not None:
            self._publishers.close()

    def _stop(self) -> None:
        self._stopping = True
        self._signalled.set()


def _publishers() -> "Publishers":
    # Workers without events do without ZMQ.
    from workers.simulated.kv_events import Publishers  # noqa: PLC0415

    return Publishers()
