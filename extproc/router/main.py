"""A router process: builds its objects, serves until it is told to stop, drains."""

import asyncio
import gc
import random
import socket
from pathlib import Path

import uvloop

from extproc.config.endpoints import router_address
from extproc.errors import StartupError
from extproc.fleet.precision import Precisions
from extproc.fleet.view import FleetView
from extproc.models.follower import ModelFollower
from extproc.models.reader import PromptReader
from extproc.models.shelf import ModelShelf
from extproc.router.accept_gate import AcceptGate
from extproc.router.calibration import Calibration
from extproc.router.deciding import Deciding
from extproc.router.handler import ProcessService
from extproc.router.recording import RecordKeeper
from extproc.server.base import Listener, Server
from extproc.server.grpc_health import HealthBoard
from extproc.server.transports import server_class
from extproc.shm.fleet import FleetDocument
from extproc.shm.processes import ProcessRow, ProcessState, ProcessTable, Role
from extproc.shm.segment import Segment
from extproc.shm.token_store import TokenStore
from extproc.shm.worker_table import WorkerTable
from extproc.supervisor.boot import EXIT_CLEAN, EXIT_FAULT, ChildBoot
from extproc.supervisor.lifecycle import ChildLifecycle
from extproc.telemetry.metrics import Metrics, TokenMetrics
from extproc.telemetry.tasks import spawn

FLEET_POLL_SECS = 0.01
HOUSEKEEPING_SECS = 0.25
GOAWAY_READ_SECS = 0.5
"""How long a peer may take to read a GOAWAY; what it sends meanwhile is served."""


class Router:
    """The objects of one router process, joined."""

    def __init__(self, boot: ChildBoot, segment: Segment) -> None:
        settings = self.settings = boot.settings
        self._table = ProcessTable(segment)
        self.row = self._table.row(boot.slot)
        self.metrics = Metrics()
        self.fleet = FleetView(
            FleetDocument(segment), on_unreadable=self.metrics.fallbacks.labels("fleet_unreadable").inc
        )
        self.gate = AcceptGate(self.row, self._accepting_routers)
        self.health = HealthBoard()
        store = TokenStore.of_segment(segment)
        token_metrics = TokenMetrics()
        shelf = ModelShelf(settings=settings.tokens, store=store, metrics=token_metrics)
        self.models = ModelFollower(
            shelf=shelf, specs=lambda: self.fleet.models, interval_secs=settings.tokens.reload_interval_secs
        )
        self.prompts = PromptReader(
            shelf=shelf,
            settings=settings.tokens,
            metrics=self.metrics,
            token_metrics=token_metrics,
            rng=random.Random(),  # noqa: S311 - picks samples, keeps no secret
        )
        self.deciding = Deciding(
            settings=settings,
            segment=segment,
            row=self.row,
            fleet=self.fleet,
            prompts=self.prompts,
            metrics=self.metrics,
        )
        self.records: RecordKeeper | None = None
        if self.deciding.recorder is not None:
            self.records = RecordKeeper(
                recorder=self.deciding.recorder,
                directory=Path(settings.recording.directory),
                row=self.row,
                metrics=self.metrics,
            )
        self.service = ProcessService(
            decider=self.deciding.director,
            server=settings.server,
            routing=settings.routing,
            metrics=self.metrics,
            queue_wait_secs=lambda: self.deciding.admission.longest_wait_secs,
            calibration=self._calibration(segment),
        )
        self.server = self._make_server(boot)

    def _calibration(self, segment: Segment) -> Calibration | None:
        """Make what compares predictions with reports, or nothing where no answer is to be read."""
        share = self.settings.kv_events.sample_share
        if not share:
            return None
        return Calibration(
            share=share,
            rng=random.Random(),  # noqa: S311 - picks samples, keeps no secret
            precisions=Precisions(WorkerTable(segment)),
            metrics=self.metrics,
        )

    def _make_server(self, boot: ChildBoot) -> Server:
        settings = self.settings.server
        listeners = [Listener(router_address(self.settings, boot.index))]
        if settings.shared_address:
            listeners.append(Listener(settings.shared_address, shared=True))
        shared = None if boot.shared_socket_fd is None else socket.socket(fileno=boot.shared_socket_fd)
        return server_class(settings.transport)(
            settings=settings,
            listeners=listeners,
            open_stream=self.service.open_stream,
            health=self.health,
            on_connection_closed=lambda reason: self.metrics.connections_closed.labels(reason).inc(),
            shared_socket=shared,
            load=self.gate,
            on_tls_reload=lambda result: self.metrics.tls_reloads.labels(result).inc(),
        )

    def _accepting_routers(self) -> list[ProcessRow]:
        return [row for row in self._table.rows() if row.role is Role.ROUTER and row.state is ProcessState.READY]

    async def keep_house(self) -> None:
        """Look after what need not be done for each request."""
        while True:
            self.show()
            self.gate.fade(HOUSEKEEPING_SECS)
            await asyncio.sleep(HOUSEKEEPING_SECS)

    def show(self) -> None:
        """Bring this process's row and metrics up to date."""
        self.fleet.refresh()
        self.row.fleet_generation = self.fleet.generation
        self.row.active_streams = self.service.active
        self.row.total_streams = self.service.opened
        self.service.flush()
        self.prompts.flush()
        self.deciding.look_after(self._accepting_routers())

    async def drain(self) -> None:
        """Stop without losing a request."""
        settings = self.settings.server
        self.health.set_ready(False)
        linger_secs = min(settings.drain_linger_secs, settings.drain_timeout_secs)
        await asyncio.sleep(linger_secs)
        left_secs = settings.drain_timeout_secs - linger_secs
        # What still comes after that, from a peer that has not yet read our GOAWAY, is told to come back.
        asyncio.get_running_loop().call_later(left_secs + GOAWAY_READ_SECS, self.service.stop_taking)
        await self.server.drain(left_secs)


def run(boot: ChildBoot) -> int:
    """Run a router until it is told to stop; returns the exit code."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(boot))


async def _serve(boot: ChildBoot) -> int:
    async with ChildLifecycle(boot) as life:
        router = Router(boot, life.segment)
        while not router.fleet.synced and not life.stop.is_set():
            router.fleet.refresh()
            await asyncio.sleep(FLEET_POLL_SECS)
        await router.models.begin(patience_secs=boot.settings.supervisor.start_timeout_secs / 2)
        try:
            # Not earlier: for a second after a router's death Envoy may still send to the address that it had, whatever
            # its successor says of its health, and without models prompts would go on without tokens.
            await router.server.start()
        except OSError as error:
            raise StartupError(f"the ext_proc server cannot listen: {error}") from error
        # What is loaded by now lives as long as the process: the collector need not look at it again and again.
        gc.freeze()
        chores = [
            spawn(router.keep_house(), name="housekeeping", eternal=True),
            spawn(router.models.run(), name="models", eternal=True),
        ]
        writing = None if router.records is None else spawn(router.records.run(), name="recording")
        if writing is not None:
            chores.append(writing)
        for chore in chores:
            # Without it metrics, load, models or records would stand still unseen: end then, and be replaced.
            chore.add_done_callback(lambda _done: life.stop.set())
        router.health.set_ready(True)
        life.ready()
        await life.stop.wait()
        failed = any(chore.done() for chore in chores)
        await router.drain()
        if router.records is not None and writing is not None:
            router.records.finish()
            await asyncio.wait([writing])
        for chore in chores:
            chore.cancel()
        router.prompts.close()
        router.show()
    return EXIT_FAULT if failed else EXIT_CLEAN
