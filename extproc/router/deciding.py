"""All that decides in one router process, joined: the policies and the state they share with other processes."""

import dataclasses
import random
from collections.abc import Callable, Sequence
from time import monotonic

from extproc.config.plugins import PluginSpec, options_of
from extproc.config.settings import Settings
from extproc.errors import PluginUnusable, StartupError
from extproc.fleet.breaker import Breakers
from extproc.fleet.loads import FleetLoads
from extproc.fleet.view import FleetView
from extproc.index.prefix_index import PrefixIndex
from extproc.index.sticky_map import StickyMap, bytes_for
from extproc.models.reader import PromptReader
from extproc.policies.base import Policy, PolicyContext
from extproc.policies.plugin import PluginPolicy
from extproc.policies.registry import POLICIES
from extproc.recording.recorder import Recorder
from extproc.routing.accounting import Accounts
from extproc.routing.admission import Admission
from extproc.routing.director import Director
from extproc.routing.hook_plugins import make_hooks
from extproc.routing.hooks import HookRunner
from extproc.routing.patience import Patience
from extproc.routing.selection import PolicySelector
from extproc.shm.admission import AdmissionColumns
from extproc.shm.counters import SharedCounter
from extproc.shm.layout import Part
from extproc.shm.lengths import LengthColumns
from extproc.shm.processes import ProcessRow
from extproc.shm.recording import RecordingOrder
from extproc.shm.segment import Segment
from extproc.shm.worker_table import Engine, WorkerTable
from extproc.telemetry.metrics import Metrics

ROUND_ROBIN_COUNTER = 0
SHADOW_STICKY_ENTRIES = 4096
"""Routing keys that a shadow policy remembers, in each process by itself."""


class Deciding:
    """The director of one router, and what has to be looked after beside it.

    Raises :class:`StartupError` when a hook or a policy of the settings is a plugin that cannot be used; a model's own
    policy is only counted then, as models come and go.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        segment: Segment,
        row: ProcessRow,
        fleet: FleetView,
        prompts: PromptReader,
        metrics: Metrics,
    ) -> None:
        process_slot = self._slot = row.slot
        table = WorkerTable(segment)
        routing = settings.routing
        prefixes = _prefix_index(settings, segment, table)
        self.breakers = Breakers(
            table=table,
            settings=settings.fleet,
            clock=monotonic,
            on_ignored=metrics.fallbacks.labels("breakers_ignored").inc,
        )
        loads = FleetLoads(
            table=table,
            clock=monotonic,
            stale_secs=settings.fleet.load_stale_secs,
            attention_tokens=routing.attention_tokens,
        )
        context = _context(settings, segment, process_slot=process_slot, loads=loads, prefixes=prefixes)
        try:
            selector = _selector(settings, context, metrics)
            hooks = make_hooks(settings.hooks.enabled, settings.plugins)
        except PluginUnusable as error:
            raise StartupError(f"a plugin cannot be used: {error}") from error
        self.accounts = Accounts(
            column=table.column(process_slot),
            table=table,
            prefixes=prefixes,
            breakers=self.breakers,
            work=loads,
            worker_at=fleet.at,
            clock=monotonic,
            assumed_answer_tokens=routing.assumed_answer_tokens,
            speculative_secs=settings.kv_events.speculative_secs,
        )
        self.admission = Admission(
            settings=settings.admission,
            columns=AdmissionColumns(segment, process_slot=process_slot),
            models=lambda: fleet.models,
            on_waited=metrics.admission_wait_seconds.observe,
            assumed_answer_tokens=routing.assumed_answer_tokens,
        )
        self.recorder = _recorder(settings, segment, table, row)
        self.director = Director(
            fleet=fleet,
            prompts=prompts,
            selector=selector,
            breakers=self.breakers,
            accounts=self.accounts,
            admission=self.admission,
            hooks=HookRunner(hooks=hooks, settings=settings.hooks, metrics=metrics),
            patience=Patience(table=table, base_secs=settings.fleet.hung_after_secs),
            metrics=metrics,
            always_tokenize=settings.tokens.when == "always",
            single_endpoint=routing.destination == "single",
            recorder=self.recorder,
            guards_cache_events=settings.kv_events.mode != "off",
        )

    def look_after(self, routers: Sequence[ProcessRow]) -> None:
        """Do what time alone makes due; ``routers`` are the rows of all that are ready. To be called regularly."""
        slots = sorted(row.slot for row in routers)
        if self._slot in slots:
            self.breakers.rank, self.breakers.routers = slots.index(self._slot), len(slots)
        self.accounts.sweep()


def _prefix_index(settings: Settings, segment: Segment, table: WorkerTable) -> PrefixIndex:
    return PrefixIndex(
        memory=segment.part(Part.PREFIX_INDEX),
        clock=monotonic,
        half_life_secs=settings.routing.prefix_half_life_secs,
        half_lives=table.engines[:, Engine.HALF_LIFE_SECS],
        cached_since=table.engines[:, Engine.CACHED_SINCE],
        lower_tier_weight=settings.kv_events.lower_tier_weight,
    )


def _recorder(settings: Settings, segment: Segment, table: WorkerTable, row: ProcessRow) -> Recorder | None:
    """Make what records requests while that is wanted, or nothing where it is not allowed."""
    if not settings.recording.directory:
        return None
    return Recorder(
        order=RecordingOrder(segment),
        table=table,
        clock=monotonic,
        assumed_answer_tokens=settings.routing.assumed_answer_tokens,
        on_begun=row.begin_recording,
    )


def _context(
    settings: Settings, segment: Segment, *, process_slot: int, loads: FleetLoads, prefixes: PrefixIndex
) -> PolicyContext:
    return PolicyContext(
        max_endpoints=settings.routing.max_endpoints,
        rng=random.Random(),  # noqa: S311 - spreads load, keeps no secret
        clock=monotonic,
        parameters=settings.policy_parameters,
        turns=SharedCounter(segment, counter=ROUND_ROBIN_COUNTER, process_slot=process_slot),
        loads=loads,
        prefixes=prefixes,
        stickies=StickyMap(segment.part(Part.STICKY_MAP)),
        lengths=LengthColumns(segment, process_slot=process_slot),
        options={},
    )


def _selector(settings: Settings, context: PolicyContext, metrics: Metrics) -> PolicySelector:
    routing = settings.routing
    shadow = None
    if routing.shadow_policy:
        # What it fails at is counted where it is compared.
        shadow = _make(routing.shadow_policy, _shadowing(context), settings.plugins, on_failed=lambda: None)
    on_failed = metrics.fallbacks.labels("policy_failed").inc
    return PolicySelector(
        make=lambda name: _make(name, context, settings.plugins, on_failed=on_failed),
        default=routing.policy,
        shadow=shadow,
        overrides=routing.override_policies,
        metrics=metrics,
    )


def _make(
    name: str, context: PolicyContext, plugins: tuple[PluginSpec, ...], *, on_failed: Callable[[], None]
) -> Policy:
    """Make a policy of ours, or of an installed package; raises :class:`PluginUnusable`."""
    policy = POLICIES.get(name)
    if policy is not None:
        return policy(context)
    return PluginPolicy(name=name, context=context, options=options_of(plugins, name), on_failed=on_failed)


def _shadowing(context: PolicyContext) -> PolicyContext:
    """Return a context whose state a policy may change without touching what the acting ones share."""
    private = Segment.create({Part.STICKY_MAP: bytes_for(SHADOW_STICKY_ENTRIES)})
    StickyMap.prepare(private.part(Part.STICKY_MAP))
    private.close()
    return dataclasses.replace(
        context,
        turns=SharedCounter(private, counter=ROUND_ROBIN_COUNTER, process_slot=0),
        stickies=StickyMap(private.part(Part.STICKY_MAP)),
        lengths=LengthColumns(private, process_slot=0),
    )
