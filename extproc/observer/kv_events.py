"""Follows the caches of all engines: who is believed, and what is put into the prefix index."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NoReturn

import numpy as np

from extproc.config.kv_events import KvEventsSettings
from extproc.config.model_list import names_of
from extproc.config.models import ModelSpec
from extproc.fleet.load.engine_load import EngineLoad
from extproc.fleet.worker import Worker, WorkerKey
from extproc.fleet.worker_http import split_address
from extproc.index.block_hash import root_hash
from extproc.index.prefix_index import PrefixIndex, Tier
from extproc.kvevents.endpoints import fault_of_told
from extproc.kvevents.engine_blocks import Changes, EngineBlocks
from extproc.kvevents.engine_cache import Doubt, EngineCache
from extproc.kvevents.index_changes import apply_changes
from extproc.kvevents.sources import EventSource, ask_models, ask_sources, configured_source
from extproc.kvevents.stream import Position, Problem
from extproc.kvevents.subscriber import Subscription, Subscriptions
from extproc.observer.snapshot import KnownBlocks, pack, unpack_all
from extproc.shm.worker_table import Engine, Outcome, Trust, WorkerTable
from extproc.telemetry.metrics import KvEventMetrics
from extproc.telemetry.tasks import spawn

logger = logging.getLogger(__name__)

FLUSH_SECS = 0.002
"""How long changes of all engines are gathered before they go into the index as one."""
LOOK_SECS = 0.25
ASK_TIMEOUT_SECS = 2.0
FIRST_RETRY_SECS, LAST_RETRY_SECS = 0.5, 30.0
NO_EVENTS_RETRY_SECS = 60.0
"""A worker that tells of no events is asked again after so long: another may be at its address."""
LEAST_SAMPLES = 16
"""Predictions that must have been compared before a worker is doubted for them."""
DISTRUST_SECS, MAX_DISTRUST_SECS = 60.0, 3600.0
LEAST_LIFETIMES = 64
HALF_LIFE_SECS = 10.0
"""How often it is worked out anew how long blocks last; of hundreds of engines that takes a while."""
MENDED_AT_ONCE = 16_384


class _Followed:
    """One worker, and what is under way to follow its engine."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.task: asyncio.Task[None] | None = None
        self.again = asyncio.Event()
        self.source: EventSource | None = None
        self.spec: ModelSpec | None = None
        self.subscription: Subscription | None = None
        self.cache: EngineCache | None = None
        self.precise = False
        self.told = False
        self.distrusted = 0
        self.distrusted_until = 0.0
        self.read_at = 0.0
        self.mended_to = [0, 0]
        self.counted: dict[str, int] = {}
        self.warned: set[str] = set()
        self.remembered: KnownBlocks | None = None

    def leave(self) -> None:
        """Follow the engine no more."""
        if self.subscription is not None:
            self.subscription.close()
        self.subscription = self.cache = self.source = self.spec = None
        self.counted = {}


class KvEvents:
    """The one that follows the events of engines; runs in the observer.

    It is told of workers that come, recover and go (:class:`~extproc.observer.observer.Engines`), and asks each where
    it publishes. ``models`` returns the configured models. What is known of a *precise* worker is exact, and what was
    sent there before it became so is forgotten; of any other worker what is known of its events comes on top of what it
    was sent. ``clock`` is that of the table.
    """

    def __init__(
        self,
        *,
        settings: KvEventsSettings,
        table: WorkerTable,
        prefixes: PrefixIndex,
        models: Callable[[], Sequence[ModelSpec]],
        metrics: KvEventMetrics,
        clock: Callable[[], float],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._table = table
        self._prefixes = prefixes
        self._models = models
        self._metrics = metrics
        self._clock = clock
        self._wall_clock = wall_clock
        self._subscriptions = Subscriptions(settings=settings, clock=clock)
        self._followed: dict[WorkerKey, _Followed] = {}
        self._dirty: set[WorkerKey] = set()
        self._remembered: dict[WorkerKey, KnownBlocks] = {}
        self._flush_due = False
        self._half_life_due = self._half_life_secs = 0.0
        self._mended = 0

    # Who comes and goes.

    def placed(self, worker: Worker) -> None:
        """Begin to follow a worker."""
        # A predecessor may have left something.
        self._prefixes.set_precise(worker.slot, precise=False)
        self._prefixes.clear_held(worker.slot)
        followed = self._followed[worker.key] = _Followed(worker)
        followed.remembered = self._remembered.pop(worker.key, None)
        self._table.engines[worker.slot, Engine.TRUST] = Trust.APPROXIMATE
        if self._settings.mode != "off":
            followed.task = spawn(self._follow_for_ever(followed), name=f"kv events of {worker.id}", eternal=True)

    def recovered(self, worker: Worker) -> None:
        """Look whether it is still the same engine that is followed."""
        self._look_again(worker.key)

    def changed(self, worker: Worker) -> None:
        """Follow a worker where its entry says, and by the model that it names, from now on."""
        followed = self._followed.get(worker.key)
        if followed is None:
            return
        before, followed.worker = followed.worker, worker
        if (
            configured_source(self._settings, before) != configured_source(self._settings, worker)
            or before.models != worker.models
        ):
            followed.again.set()

    def restarted(self, worker: Worker) -> None:
        """Take notice that an engine counts from zero again."""
        self._look_again(worker.key)
        followed = self._followed.get(worker.key)
        if followed is None or followed.cache is None or followed.subscription is None:
            return
        if not followed.subscription.has_replay and followed.cache.unknown_since <= followed.read_at:
            # Its stream has not begun anew since, and may never seem to: the next number can fit by chance.
            followed.cache.reset(complete=False)

    def gone(self, worker: Worker) -> None:
        """Follow a worker no more."""
        followed = self._followed.pop(worker.key, None)
        if followed is not None:
            if followed.task is not None:
                followed.task.cancel()
            followed.leave()
            self._prefixes.set_precise(worker.slot, precise=False)

    def take_load(self, key: WorkerKey, load: EngineLoad) -> None:
        """Compare a reading of an engine's counters with what it has announced."""
        followed = self._followed.get(key)
        if followed is None or followed.cache is None:
            return
        followed.read_at = self._clock()
        followed.cache.compare(load, silent_after_secs=self._settings.silent_after_secs)
        followed.cache.turned_over(float(self._table.engines[followed.worker.slot, Engine.CACHED_SINCE]))

    def blocks(self, key: WorkerKey) -> int:
        """How many blocks a worker is known to hold by its events."""
        followed = self._followed.get(key)
        return 0 if followed is None or followed.cache is None else len(followed.cache.blocks)

    def remember(self, blocks: Mapping[WorkerKey, KnownBlocks]) -> None:
        """Take what was known of the blocks of workers that are still to be placed.

        It is used of an engine that publishes at the same place and replays the batch that was the last one then.
        """
        self._remembered = dict(blocks)

    def known_blocks(self, key: WorkerKey) -> KnownBlocks | None:
        """Return what is known of a worker's blocks, in a form that can be written; None where it is not all."""
        followed = self._followed.get(key)
        if followed is None or not followed.precise or followed.cache is None or not followed.cache.precise:
            return None
        subscription, cache, source, spec = followed.subscription, followed.cache, followed.source, followed.spec
        assert subscription is not None
        assert source is not None
        assert spec is not None
        if subscription.position is None:
            return None
        arrays = {name: pack(array) for name, array in cache.blocks.dump().items()}
        return KnownBlocks(source, spec.name, subscription.position, arrays)

    async def run(self) -> NoReturn:
        """Draw conclusions from time to time, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECS)
            self.look()

    async def close(self) -> None:
        """Close every socket."""
        tasks = [followed.task for followed in self._followed.values() if followed.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for followed in self._followed.values():
            followed.leave()
        self._subscriptions.close()

    # Where an engine publishes.

    def _look_again(self, key: WorkerKey) -> None:
        followed = self._followed.get(key)
        if followed is not None:
            if followed.subscription is not None:
                followed.subscription.verify()
            followed.again.set()

    async def _follow_for_ever(self, followed: _Followed) -> None:
        retry_secs = FIRST_RETRY_SECS
        while True:
            followed.again.clear()
            try:
                source = await self._source_of(followed)
                spec = None if source is None else await self._spec_of(followed.worker)
            except (OSError, TimeoutError, ValueError) as error:
                logger.debug("Worker %s does not say where its KV-cache events are: %s", followed.worker.id, error)
                pause_secs, retry_secs = retry_secs, min(2 * retry_secs, LAST_RETRY_SECS)
            else:
                self._take_source(followed, source, spec)
                if followed.subscription is None or followed.subscription.is_open:
                    pause_secs, retry_secs = NO_EVENTS_RETRY_SECS, FIRST_RETRY_SECS
                else:
                    # Its socket could not be had; whoever has the address may leave it.
                    pause_secs, retry_secs = retry_secs, min(2 * retry_secs, LAST_RETRY_SECS)
            try:
                async with asyncio.timeout(pause_secs):
                    await followed.again.wait()
            except TimeoutError:
                continue

    async def _source_of(self, followed: _Followed) -> EventSource | None:
        worker = followed.worker
        source = configured_source(self._settings, worker)
        if source is not None:
            return source
        told = await ask_sources(worker.address, ASK_TIMEOUT_SECS)
        source = None if told is None else told.get(worker.rank)
        if source is None:
            return None
        host, _ = split_address(worker.address)
        fault = fault_of_told(source.endpoint, host=host, replays=False)
        if not fault and source.replay_endpoint:
            fault = fault_of_told(source.replay_endpoint, host=host, replays=True)
        if fault:
            self._warn(followed, Problem.ENDPOINT, fault)
            return None
        return source

    async def _spec_of(self, worker: Worker) -> ModelSpec | None:
        """Return the configured model that a worker serves; an engine has one, besides adapters."""
        specs = {name: spec for spec in self._models() for name in names_of(spec)}
        names: Iterable[str] = worker.models
        if not any(name in specs for name in names):
            names = await ask_models(worker.address, ASK_TIMEOUT_SECS)
        return next((specs[name] for name in names if name in specs), None)

    def _take_source(self, followed: _Followed, source: EventSource | None, spec: ModelSpec | None) -> None:
        worker = followed.worker
        if source == followed.source and _alike(spec, followed.spec):
            subscription = followed.subscription
            if subscription is None or subscription.is_open:
                return
        self._leave(followed)
        if source is None:
            logger.info("Worker %s publishes no KV-cache events", worker.id)
            return
        if spec is None:
            self._warn(followed, Doubt.MODEL, "none of the configured models is served there")
            return
        self._subscribe(followed, source, spec)

    def _restored(
        self, followed: _Followed, source: EventSource, spec: ModelSpec
    ) -> tuple[EngineBlocks, Position | None]:
        """Return the blocks of an engine to begin with, and the batch that they were last changed by."""
        remembered, followed.remembered = followed.remembered, None
        root = partial(root_of, spec)
        # Without a replay nobody can tell whether it is still the same engine.
        same = remembered is not None and (remembered.source, remembered.model) == (source, spec.name)
        if remembered is not None and same and source.replay_endpoint:
            try:
                arrays = unpack_all(remembered.arrays)
                blocks = EngineBlocks.restore(arrays, root=root, block_size=spec.block_size, settings=self._settings)
            except ValueError as error:
                logger.warning("What was known of worker %s is not used: %s", followed.worker.id, error)
            else:
                return blocks, remembered.position
        return EngineBlocks(root=root, block_size=spec.block_size, settings=self._settings), None

    def _subscribe(self, followed: _Followed, source: EventSource, spec: ModelSpec) -> None:
        worker = followed.worker
        blocks, position = self._restored(followed, source, spec)
        cache = EngineCache(
            blocks=blocks,
            rank=source.rank,
            clock=self._clock,
            wall_clock=self._wall_clock,
            on_doubt=partial(self._warn, followed),
            on_lag=self._metrics.lag_seconds.observe,
            on_batches=partial(self._on_batches, followed),
        )
        cache.complete = position is not None
        followed.source, followed.spec, followed.cache = source, spec, cache
        host, _ = split_address(worker.address)
        followed.subscription = self._subscriptions.follow(source, host=host, sink=cache, position=position)
        if position is not None:
            self._on_batches(followed)
        logger.info("Following the KV-cache events of worker %s at %s", worker.id, source.endpoint)

    def _warn(self, followed: _Followed, what: Problem | Doubt, detail: str) -> None:
        self._metrics.problems.labels(followed.worker.id, what.value).inc()
        log = logger.info if what in followed.warned else logger.warning
        followed.warned.add(what)
        log("The KV-cache events of worker %s: %s: %s", followed.worker.id, what, detail)

    # What comes of its events.

    def _on_batches(self, followed: _Followed) -> None:
        self._dirty.add(followed.worker.key)
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_later(FLUSH_SECS, self.flush)

    def flush(self) -> None:
        """Put what has changed into the index."""
        self._flush_due = False
        dirty, self._dirty = self._dirty, set()
        followed_ones = [self._followed[key] for key in dirty if key in self._followed]
        changed: list[tuple[int, Changes]] = []
        for followed in followed_ones:
            if followed.cache is None:
                continue
            changes = followed.cache.take_changes()
            # Forgetting takes milliseconds, and of an engine that is new there is nothing to forget.
            changed.append((followed.worker.slot, changes._replace(cleared=changes.cleared and followed.told)))
            followed.told = True
        apply_changes(self._prefixes, changed)
        for followed in followed_ones:
            self._conclude(followed)

    def look(self) -> None:
        """Draw conclusions, and count."""
        for followed in self._followed.values():
            self._doubt_predictions(followed)
            self._conclude(followed)
            self._count(followed)
        self._metrics.lag_seconds.flush()
        now = self._clock()
        if now >= self._half_life_due:
            self._half_life_due = now + HALF_LIFE_SECS
            self._half_life_secs = self._half_life()
        for followed in self._followed.values():
            row = self._table.engines[followed.worker.slot]
            row[Engine.HALF_LIFE_SECS] = 0.0 if followed.precise else self._half_life_secs
        self._mend()

    def _mend(self) -> None:
        """Put back what the index has lost of the blocks that one worker holds, some at a time.

        It may have had to make room, and two processes may have changed one entry at the same moment.
        """
        precise = [followed for followed in self._followed.values() if followed.precise and followed.cache is not None]
        if not precise:
            return
        self._mended += 1
        followed = precise[self._mended % len(precise)]
        assert followed.cache is not None
        slot, blocks = followed.worker.slot, followed.cache.blocks
        for tier in Tier:
            held = blocks.some_held(tier, after=followed.mended_to[tier], most=MENDED_AT_ONCE)
            followed.mended_to[tier] = followed.mended_to[tier] + len(held) if len(held) == MENDED_AT_ONCE else 0
            missing = held[~self._prefixes.holds(held, slot, tier=tier)]
            if len(missing):
                self._metrics.mended.labels(followed.worker.id).inc(len(missing))
                self._prefixes.hold(missing, np.full(len(missing), slot), tier=tier)

    def _conclude(self, followed: _Followed) -> None:
        cache, subscription = followed.cache, followed.subscription
        precise = (
            cache is not None
            and subscription is not None
            and cache.precise
            and subscription.synced
            and self._clock() >= followed.distrusted_until
        )
        if precise is followed.precise:
            return
        followed.precise = precise
        worker = followed.worker
        if precise:
            followed.warned.clear()
            outcomes = self._table.outcomes[worker.slot]
            outcomes[Outcome.PRECISION] = outcomes[Outcome.PRECISION_SAMPLES] = 0.0
            # Before the routers believe it to hold nothing else.
            self._prefixes.clear_claims(worker.slot)
        self._prefixes.set_precise(worker.slot, precise=precise)
        self._table.engines[worker.slot, Engine.TRUST] = Trust.PRECISE if precise else Trust.APPROXIMATE
        logger.info("The cache of worker %s is known %s", worker.id, "precisely" if precise else "approximately")

    def _leave(self, followed: _Followed) -> None:
        """Follow an engine no more whose worker stays: nobody would take back what it has said."""
        followed.leave()
        if followed.told:
            followed.told = False
            self._prefixes.clear_held(followed.worker.slot)
        self._conclude(followed)

    def _doubt_predictions(self, followed: _Followed) -> None:
        outcomes = self._table.outcomes[followed.worker.slot]
        samples, precision = float(outcomes[Outcome.PRECISION_SAMPLES]), float(outcomes[Outcome.PRECISION])
        if not followed.precise or samples < LEAST_SAMPLES or precision >= self._settings.min_precision:
            return
        assert followed.cache is not None
        pause_secs = min(DISTRUST_SECS * 2**followed.distrusted, MAX_DISTRUST_SECS)
        followed.distrusted = min(followed.distrusted + 1, 10)
        followed.distrusted_until = self._clock() + pause_secs
        followed.cache.distrust(
            f"predictions agree by {precision:.2f} with what it reports; again in {pause_secs:.0f} s"
        )
        source, spec = followed.source, followed.spec
        assert source is not None
        assert spec is not None
        self._leave(followed)
        self._subscribe(followed, source, spec)

    def _count(self, followed: _Followed) -> None:
        if followed.subscription is None:
            return
        counts = followed.subscription.counts
        for name in ("batches", "replayed", "lost", "dropped", "duplicates"):
            now = getattr(counts, name)
            more = now - followed.counted.get(name, 0)
            if more > 0:
                self._metrics.batches.labels(followed.worker.id, name).inc(more)
                followed.counted[name] = now

    def _half_life(self) -> float:
        """Return how long a block stays in the caches that are known, in the middle; 0 while too few have gone."""
        lifetimes = [
            secs
            for followed in self._followed.values()
            if followed.cache is not None and followed.precise
            for secs in followed.cache.blocks.lifetimes
        ]
        return float(np.median(lifetimes)) if len(lifetimes) >= LEAST_LIFETIMES else 0.0


def _alike(one: ModelSpec | None, other: ModelSpec | None) -> bool:
    """Whether two models hash their prompts alike, whatever else is set for them."""
    if one is None or other is None:
        return one is other
    return (one.name, one.block_size) == (other.name, other.block_size)


def root_of(spec: ModelSpec, lora: str, cache_salt: str) -> int:
    """Return the start of the chain of a prompt to a model, as :mod:`extproc.models.model` has it."""
    return root_hash(model=spec.name, lora=lora, cache_salt=cache_salt)
