"""One replica of the service: routers that decide and account, and an observer that reads engines, as in production."""

import random
from collections.abc import Callable, Sequence

from extproc.api.request import RoutingRequest
from extproc.config.fleet import FleetSettings
from extproc.config.kv_events import KvEventsSettings
from extproc.config.policies import PolicyParameters, RoutingSettings
from extproc.fleet.breaker import Breakers
from extproc.fleet.candidates import Candidates
from extproc.fleet.load.engine_load import EngineLoad
from extproc.fleet.loads import FleetLoads
from extproc.fleet.worker import Worker, WorkerKey
from extproc.index.prefix_index import PrefixIndex
from extproc.index.sticky_map import StickyMap, bytes_for
from extproc.observer.engine_rows import EngineRows
from extproc.policies.base import Choice, Needs, Policy, PolicyContext
from extproc.routing.accounting import Accounts, Flight
from extproc.shm.counters import SharedCounter
from extproc.shm.layout import Part
from extproc.shm.lengths import LengthColumns
from extproc.shm.segment import Segment
from extproc.shm.worker_table import Engine, WorkerTable

STICKY_ENTRIES = 1 << 20

MakePolicy = Callable[[PolicyContext], Policy]


class Router:
    """One router process: its policy and its accounting."""

    def __init__(self, *, policy: Policy, accounts: Accounts) -> None:
        self.policy = policy
        self.accounts = accounts
        self._record = policy.needs >= Needs.PREFIXES

    def send(self, request: RoutingRequest, candidates: Candidates) -> tuple[Choice, Flight]:
        """Choose and account for the choice, as :mod:`extproc.routing.director` does."""
        choice = self.policy.choose(request, candidates)
        return choice, self.accounts.start(request, choice, record=self._record)


class Replica:
    """A service with ``routers`` processes in front of ``workers``, with a segment, a view and a record of its own.

    With ``follows_losses`` it takes prefixes for lost that an engine must have evicted.
    """

    def __init__(
        self,
        *,
        make_policy: MakePolicy,
        parameters: PolicyParameters,
        workers: Sequence[Worker],
        clock: Callable[[], float],
        seed: int,
        routers: int = 1,
        follows_losses: bool = True,
        prefix_index_bytes: int = RoutingSettings().prefix_index_bytes,
    ) -> None:
        segment = Segment.create({Part.PREFIX_INDEX: prefix_index_bytes, Part.STICKY_MAP: bytes_for(STICKY_ENTRIES)})
        segment.close()
        StickyMap.prepare(segment.part(Part.STICKY_MAP), secret=seed.to_bytes(8, "little"))
        self.table = WorkerTable(segment)
        since = self.table.engines[:, Engine.CACHED_SINCE] if follows_losses else None
        self.prefixes = PrefixIndex(memory=segment.part(Part.PREFIX_INDEX), clock=clock, cached_since=since)
        settings = FleetSettings()
        breakers = Breakers(table=self.table, settings=settings, clock=clock)
        self.routers = []
        for slot in range(routers):
            prefixes = PrefixIndex(memory=segment.part(Part.PREFIX_INDEX), clock=clock, cached_since=since)
            loads = FleetLoads(
                table=self.table,
                clock=clock,
                stale_secs=settings.load_stale_secs,
                attention_tokens=RoutingSettings().attention_tokens,
            )
            context = PolicyContext(
                max_endpoints=RoutingSettings().max_endpoints,
                rng=random.Random(seed * routers + slot),  # noqa: S311 - a simulation is to be repeated
                clock=clock,
                parameters=parameters,
                turns=SharedCounter(segment, counter=0, process_slot=slot),
                loads=loads,
                prefixes=prefixes,
                stickies=StickyMap(segment.part(Part.STICKY_MAP)),
                lengths=LengthColumns(segment, process_slot=slot),
                options={},
            )
            accounts = Accounts(
                column=self.table.column(slot),
                table=self.table,
                prefixes=prefixes,
                breakers=breakers,
                work=loads,
                worker_at=lambda _address: None,
                clock=clock,
                assumed_answer_tokens=RoutingSettings().assumed_answer_tokens,
                speculative_secs=KvEventsSettings().speculative_secs,
            )
            self.routers.append(Router(policy=make_policy(context), accounts=accounts))
        self._by_key = {worker.key: worker for worker in workers}
        self._rows = EngineRows(
            table=self.table, prefixes=self.prefixes, worker_of=self._by_key.get, models=lambda: (), clock=clock
        )

    def read(self, key: WorkerKey, load: EngineLoad, *, rate_factor: float = 1.0) -> None:
        """Take what an engine tells of itself; what is learned of its speed is wrong by ``rate_factor``."""
        self._rows.take(key, load)
        self.table.engines[self._by_key[key].slot][Engine.PREFILL_RATE] *= rate_factor

    def sweep(self) -> None:
        """Do what time alone makes due."""
        for router in self.routers:
            router.accounts.sweep()
