"""One worker: its parts put together, and its life from the open port to the last request."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

from workers.engine.device import Device
from workers.engine.frontend import Frontend
from workers.engine.profile import Profile
from workers.simulated.engine import Engine
from workers.simulated.faults import Behaviour, Faults
from workers.simulated.frontend import Frontend as HttpFrontend
from workers.simulated.generation import Generation
from workers.simulated.ledger import Ledger
from workers.simulated.listener import Listener
from workers.simulated.metrics import EngineMetrics, LoraInfo, WorkerMetrics
from workers.simulated.modelled import EventPublisher, ModelledEngine
from workers.simulated.operations import Operations
from workers.simulated.ranks import RankedEngine
from workers.simulated.replies import Replies
from workers.simulated.scripted import ScriptedEngine
from workers.simulated.settings import BLOCK_SIZE, Settings


class EventPublishers(Protocol):
    """Opens publishers of KV-cache events."""

    def open(self, settings: Settings, *, block_size: int, rank: int, on_drop: Callable[[], None]) -> EventPublisher:
        """Open the sockets of one rank of a worker. Raises ``OSError``."""


class Worker:
    """A simulated worker, scripted where ``profile`` is None. Raises ``OSError`` when an address cannot be had.

    ``devices`` makes the GPU of each of its ranks.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        profile: Profile | None,
        devices: Callable[[], Device],
        publishers: EventPublishers | None,
    ) -> None:
        self._settings = settings
        self._profile = profile
        self._devices = devices
        self._listener = Listener(host=settings.host, port=settings.port, keep_alive_secs=settings.keep_alive_secs)
        self.address = f"{settings.host}:{self._listener.port}"
        self.name = settings.name or self.address
        self._faults = Faults(settings.behaviour)
        self._ledger = Ledger(remember=settings.remember_requests)
        self._metrics, self._engine = self._scripted() if profile is None else self._modelled(profile, publishers)
        self._listener.serve(self._build().handle)

    async def start(self) -> None:
        """Take connections, or refuse them if told so. Raises ``OSError``."""
        await self.behave(self._settings.behaviour)

    async def behave(self, behaviour: Behaviour) -> None:
        """Behave so; when this returns, connections are taken or refused accordingly."""
        self._faults.change(behaviour)
        if behaviour.mode == "refuse":
            await self._listener.refuse()
        else:
            await self._listener.open()

    async def drain(self) -> None:
        """Refuse connections, let requests end for a while, and close what is left."""
        await self._listener.refuse()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_secs):
                await self._ledger.idle()
        await self._listener.close()
        self._engine.close()

    def _scripted(self) -> tuple[WorkerMetrics, Engine]:
        settings = self._settings
        metrics = EngineMetrics(
            model=settings.models[0],
            block_size=settings.block_size or BLOCK_SIZE,
            num_blocks=settings.num_gpu_blocks,
            prefix_caching=False,
        )
        return WorkerMetrics([metrics]), ScriptedEngine(settings=settings, metrics=metrics, faults=self._faults)

    def _modelled(self, profile: Profile, publishers: EventPublishers | None) -> tuple[WorkerMetrics, Engine]:
        settings = self._settings
        ranks = range(settings.data_parallel_size)
        metrics = [
            EngineMetrics(
                model=settings.models[0],
                block_size=profile.block_size,
                num_blocks=profile.num_blocks * len(ranks),
                prefix_caching=profile.enable_prefix_caching,
                rank=rank,
            )
            for rank in ranks
        ]
        lora_info = LoraInfo(max_loras=profile.max_loras) if settings.loras else None
        if lora_info is not None:
            # As in vLLM, it is one for all ranks.
            metrics[0].register(lora_info)
        frontend = Frontend(profile.frontend)
        engines: list[Engine] = []
        try:
            for rank in ranks:
                engine = ModelledEngine(
                    profile=profile,
                    device=self._devices(),
                    frontend=frontend,
                    metrics=metrics[rank],
                    faults=self._faults,
                    stream_interval_secs=settings.stream_interval_secs,
                    lora_info=lora_info,
                    publisher=None
                    if publishers is None
                    else publishers.open(
                        settings, block_size=profile.block_size, rank=rank, on_drop=metrics[rank].dropped_events.inc
                    ),
                )
                engines.append(engine)
        except OSError:
            RankedEngine(engines).close()
            raise
        return WorkerMetrics(metrics), RankedEngine(engines) if len(ranks) > 1 else engines[0]

    def _build(self) -> HttpFrontend:
        settings, engine, replies = self._settings, self._engine, Replies(worker=self.name)
        max_model_len = settings.max_model_len
        if self._profile is not None:
            max_model_len = min(max_model_len, self._profile.num_blocks * self._profile.block_size)
        return HttpFrontend(
            settings=settings,
            faults=self._faults,
            ledger=self._ledger,
            replies=replies,
            max_model_len=max_model_len,
            generation=Generation(
                settings=settings, engine=engine, replies=replies, worker=self.name, max_model_len=max_model_len
            ),
            operations=Operations(
                engine=engine,
                metrics=self._metrics,
                faults=self._faults,
                ledger=self._ledger,
                replies=replies,
                change_behaviour=self.behave,
            ),
        )
