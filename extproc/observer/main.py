"""The observer process: builds its objects, runs until it is told to stop."""

import asyncio
import logging
import os
import random
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic

import msgspec
import uvloop

from extproc.admin.app import AdminServer
from extproc.admin.metrics import service_registry
from extproc.config.endpoints import eds_file
from extproc.config.load import Lists
from extproc.config.settings import Settings
from extproc.dataplane.eds import EndpointFile
from extproc.fleet.discovery.merged import MergedSource
from extproc.fleet.discovery.registry import build_sources
from extproc.fleet.health.prober import HealthProber
from extproc.fleet.load.engine_load import EngineLoad
from extproc.fleet.load.scraper import LoadScraper
from extproc.fleet.registry import FleetRegistry, spec_of
from extproc.fleet.worker import Fleet, WorkerKey
from extproc.index.prefix_index import PrefixIndex
from extproc.models.shelf import ModelShelf
from extproc.observer.engines import Engines
from extproc.observer.observer import Observer
from extproc.observer.publisher import Publisher
from extproc.observer.recording import ObservedRecording
from extproc.observer.state import SharedState
from extproc.observer.tokens import ObservedTokens
from extproc.shm.fleet import FleetDocument
from extproc.shm.layout import Part
from extproc.shm.processes import ProcessTable
from extproc.shm.recording import RecordingOrder
from extproc.shm.segment import Segment
from extproc.shm.token_store import TokenStore
from extproc.shm.worker_table import WorkerTable
from extproc.supervisor.boot import ChildBoot
from extproc.supervisor.lifecycle import ChildLifecycle
from extproc.telemetry.metrics import DiscoveryMetrics, Metrics, TokenMetrics
from extproc.telemetry.tasks import spawn

logger = logging.getLogger(__name__)


class ObserverProcess:
    """The objects of one observer process, joined. The segment's fleet document must have no other writer."""

    def __init__(self, *, settings: Settings, segment: Segment, config_file: Path, metric_dir: Path) -> None:
        self._settings = settings
        document, table = FleetDocument(segment), WorkerTable(segment)
        metrics = Metrics()
        restored = read_fleet(document)
        registry = FleetRegistry(settings=settings.fleet, restored=restored)
        self._prober = HealthProber(
            settings=settings.fleet,
            metrics=metrics,
            random=random.Random(),  # noqa: S311 - spreads probes, keeps no secret
            on_result=lambda key, good: self._observer.take_result(key, good),  # noqa: PLW0108 - it is made below
        )
        prefixes = PrefixIndex(memory=segment.part(Part.PREFIX_INDEX), clock=monotonic)
        self._engines = Engines(
            settings=settings.kv_events,
            table=table,
            prefixes=prefixes,
            inherited=None if restored is None else restored.workers,
            worker_of=lambda key: self._observer.worker_of(key),  # noqa: PLW0108 - it is made below
            workers=lambda: self._observer.workers(),  # noqa: PLW0108
            models=lambda: self._observer.models(),  # noqa: PLW0108
        )
        self._scraper = LoadScraper(
            settings=settings.fleet,
            metrics=metrics,
            random=random.Random(),  # noqa: S311 - spreads readings, keeps no secret
            on_load=self._take_load,
        )
        self._observer = Observer(
            registry=registry,
            publisher=Publisher(
                document=document,
                endpoints=EndpointFile(path=Path(eds_file(settings))),
                metrics=metrics,
                before=restored,
            ),
            in_flight=table.in_flight,
            watch=self._watch,
            clock=monotonic,
            models=() if restored is None else restored.models,
            engines=self._engines,
        )
        known = Lists(settings.workers, settings.models) if restored is None else lists_of(restored)
        self._source = discover(settings, config_file=config_file, known=known, metrics=metrics)
        store = TokenStore.of_segment(segment)
        processes = ProcessTable(segment)
        state = SharedState(
            document=document,
            token_store=store,
            table=table,
            prefixes=prefixes,
            processes=processes,
            workers=self._observer.workers,
        )
        self._admin = AdminServer(
            address=settings.admin.address,
            state=state,
            registry=service_registry(state=state, metric_dir=metric_dir),
            tokens=ObservedTokens(
                shelf=ModelShelf(settings=settings.tokens, store=store, metrics=TokenMetrics()),
                store=store,
                specs=self._observer.models,
            ),
            recording=ObservedRecording(
                settings=settings.recording, order=RecordingOrder(segment), rows=processes.rows
            ),
        )
        if restored is None:
            # Checked when the service started, so routers need not wait for any source.
            self._observer.take_lists(known)

    def _watch(self, workers: Collection[WorkerKey]) -> None:
        self._prober.watch(workers)
        self._scraper.watch(workers)

    def _take_load(self, key: WorkerKey, load: EngineLoad | None) -> None:
        self._engines.take_load(key, load)
        if load is not None:
            self._observer.take_lora(key, load.lora)

    async def run(self, *, stop: asyncio.Event, ready: Callable[[], None]) -> None:
        """Observe until ``stop`` is set; calls ``ready`` once the fleet is published and the admin port is open.

        Raises :class:`~extproc.errors.StartupError` when the admin port cannot be opened, and whatever ends one of the
        tasks that must go on for ever: the process is then of no use and better replaced.
        """
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._prober.close)
            stack.push_async_callback(self._scraper.close)
            stack.push_async_callback(self._engines.close)
            self._engines.begin()
            self._observer.publish()
            address = await self._admin.start()
            stack.push_async_callback(self._admin.close)
            logger.info("Admin port on http://%s", address)
            ready()
            stopping = spawn(stop.wait(), name="stop")
            tasks: set[asyncio.Task[bool]] = {
                stopping,
                spawn(self._observer.run(), name="observe", eternal=True),
                spawn(self._engines.follow(), name="kv events", eternal=True),
                spawn(self._engines.remember(), name="snapshot", eternal=True),
                spawn(self._source.watch(self._observer.take_lists), name="discover", eternal=True),
            }
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome


def run(boot: ChildBoot) -> int:
    """Run an observer until it is told to stop; returns the exit code."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_observe(boot))


async def _observe(boot: ChildBoot) -> int:
    async with ChildLifecycle(boot) as life:
        process = ObserverProcess(
            settings=boot.settings,
            segment=life.segment,
            config_file=boot.config_file,
            metric_dir=Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]),
        )
        await process.run(stop=life.stop, ready=life.ready)
    return 0


def discover(settings: Settings, *, config_file: Path, known: Lists, metrics: Metrics) -> MergedSource:
    """Return the source of everything that is configured; ``known`` are the lists in use until it reports."""
    discovery_metrics = DiscoveryMetrics()
    sources = build_sources(
        discovery=settings.discovery,
        plugins=settings.plugins,
        config_file=config_file,
        reload_interval_secs=settings.fleet.reload_interval_secs,
        workers_required=bool(settings.workers),
        metrics=metrics,
        discovery_metrics=discovery_metrics,
    )
    return MergedSource(
        sources=sources,
        known=known,
        first_report_timeout_secs=settings.discovery.first_report_timeout_secs,
        metrics=discovery_metrics,
    )


def lists_of(fleet: Fleet) -> Lists:
    """Return the lists that a fleet would come from; workers that leave come last, and leave on."""
    specs = [spec_of(worker) for worker in sorted(fleet.workers, key=lambda worker: worker.state)]
    # All ranks of a server are one entry, and one whose ranks leave one by one leaves.
    servers = {(spec.address, spec.id, spec.data_parallel_size): spec for spec in reversed(specs)}
    return Lists(tuple(reversed(servers.values())), fleet.models)


def read_fleet(document: FleetDocument) -> Fleet | None:
    """Return the fleet that a predecessor published, or None when there was none."""
    found = document.read()
    if found is None:
        return None
    try:
        return msgspec.json.decode(found[1], type=Fleet)
    except msgspec.DecodeError:
        logger.exception("The published fleet cannot be read; starting from the configuration")
        return None
