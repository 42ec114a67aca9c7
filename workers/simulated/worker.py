"""One worker: its parts put together, and its life from the ready line to the last request."""

import asyncio
import contextlib
import signal
import sys

from workers.simulated.engine import Engine
from workers.simulated.faults import Behaviour, Faults
from workers.simulated.frontend import Frontend
from workers.simulated.generation import Generation
from workers.simulated.ledger import Ledger
from workers.simulated.listener import Listener
from workers.simulated.metrics import EngineMetrics
from workers.simulated.operations import Operations
from workers.simulated.replies import Replies
from workers.simulated.settings import Settings


class Worker:
    """A simulated worker. ``SIGTERM`` and ``SIGINT`` stop it, ``SIGUSR1`` ends every misbehaviour.

    Raises ``OSError`` when the address cannot be had.
    """

    def __init__(self, *, settings: Settings) -> None:
        self._settings = settings
        self._listener = Listener(host=settings.host, port=settings.port, keep_alive_secs=settings.keep_alive_secs)
        self._name = settings.name or f"{settings.host}:{self._listener.port}"
        self._faults = Faults(settings.behaviour)
        self._ledger = Ledger(remember=settings.remember_requests)
        self._signalled = asyncio.Event()
        self._stopping = False
        self._listener.serve(self._build().handle)

    async def run(self) -> None:
        """Serve until told to stop."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        loop.add_signal_handler(signal.SIGINT, self._stop)
        loop.add_signal_handler(signal.SIGUSR1, self._signalled.set)
        await self._change_behaviour(self._settings.behaviour)
        sys.stdout.write(f"simulated worker {self._name} ready on {self._settings.host}:{self._listener.port}\n")
        sys.stdout.flush()
        while True:
            await self._signalled.wait()
            self._signalled.clear()
            if self._stopping:
                break
            await self._change_behaviour(Behaviour())
        await self._drain()

    def _build(self) -> Frontend:
        settings, faults, ledger = self._settings, self._faults, self._ledger
        replies = Replies(worker=self._name)
        metrics = EngineMetrics(settings)
        engine = Engine(settings=settings, metrics=metrics, faults=faults)
        return Frontend(
            settings=settings,
            faults=faults,
            ledger=ledger,
            replies=replies,
            generation=Generation(settings=settings, engine=engine, replies=replies, worker=self._name),
            operations=Operations(
                engine=engine,
                metrics=metrics,
                faults=faults,
                ledger=ledger,
                replies=replies,
                change_behaviour=self._change_behaviour,
            ),
        )

    async def _change_behaviour(self, behaviour: Behaviour) -> None:
        """Behave so; when this returns, connections are taken or refused accordingly."""
        self._faults.change(behaviour)
        if behaviour.mode == "refuse":
            await self._listener.refuse()
        else:
            await self._listener.open()

    def _stop(self) -> None:
        self._stopping = True
        self._signalled.set()

    async def _drain(self) -> None:
        await self._listener.refuse()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_secs):
                await self._ledger.idle()
        await self._listener.close()
