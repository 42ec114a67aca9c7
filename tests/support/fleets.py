"""Workers and a fleet view made in memory, behind the same interface as the shared one."""

import random
from collections.abc import Callable, Mapping

import msgspec
import numpy as np

from extproc.api.request import RoutingRequest
from extproc.config.fleet import FleetSettings
from extproc.config.policies import PolicyParameters, RoutingSettings
from extproc.fleet.breaker import Breakers
from extproc.fleet.candidates import Candidates
from extproc.fleet.loads import FleetLoads
from extproc.fleet.worker import Worker
from extproc.index.block_hash import block_hashes, root_hash
from extproc.index.prefix_index import PrefixIndex
from extproc.index.sticky_map import StickyMap, bytes_for
from extproc.policies.base import PolicyContext
from extproc.routing.accounting import Accounts
from extproc.shm.counters import SharedCounter
from extproc.shm.layout import Part
from extproc.shm.lengths import LengthColumns
from extproc.shm.segment import Segment
from extproc.shm.worker_table import Engine, Outcome, WorkerTable
from extproc.simulation.timeline import VirtualClock
from extproc.tokens.prompt_tokens import PromptTokens
from tests.support.segments import mapped

ATTENTION_TOKENS = RoutingSettings().attention_tokens


def worker(index: int, *, models: tuple[str, ...] = (), healthy: bool = True, draining: bool = False) -> Worker:
    """Worker ``w<index>`` at ``10.0.0.<index>:8000`` in slot ``index``."""
    return Worker(
        id=f"w{index}",
        address=f"10.0.0.{index}:8000",
        slot=index,
        models=models,
        state="draining" if draining else "active",
        healthy=healthy,
    )


def ranks_of(index: int, count: int, *, slot: int = 0, healthy: bool = True) -> tuple[Worker, ...]:
    """The ranks ``w<index>/<rank>`` of a server at ``10.0.0.<index>:8000``, in the slots from ``slot`` on."""
    server = worker(index, healthy=healthy)
    return tuple(
        msgspec.structs.replace(server, id=f"{server.id}/{rank}", slot=slot + rank, rank=rank, ranks=count)
        for rank in range(count)
    )


def workers(count: int) -> tuple[Worker, ...]:
    return tuple(worker(index) for index in range(count))


class Clock(VirtualClock):
    """A clock that stands still until it is told otherwise."""

    def advance(self, secs: float) -> None:
        self.now += secs


def segment_with_index() -> Segment:
    """A segment with the parts that an observer needs."""
    return Segment.create({Part.PREFIX_INDEX: 1 << 16})


class Shared:
    """The state that all processes of a service share, and what policies are made with.

    It lies on a segment of its own, or on a given one that was prepared.
    """

    def __init__(
        self, *, prefix_index_bytes: int = 1 << 20, sticky_entries: int = 1024, segment: Segment | None = None
    ) -> None:
        if segment is None:
            segment = mapped({Part.PREFIX_INDEX: prefix_index_bytes, Part.STICKY_MAP: bytes_for(sticky_entries)})
            StickyMap.prepare(segment.part(Part.STICKY_MAP))
        self.segment = segment
        self.clock = Clock()
        self.table = WorkerTable(self.segment)
        self.prefixes = self._prefix_index()
        self.breakers = Breakers(table=self.table, settings=FleetSettings(), clock=self.clock)

    def busy(self, slot: int, secs: float) -> None:
        """Let a worker have prompts to compute for so long."""
        self.table.outcomes[slot, Outcome.BUSY_UNTIL] = self.clock() + secs

    def loads(self) -> FleetLoads:
        """What one process reads of the load."""
        return FleetLoads(table=self.table, clock=self.clock, stale_secs=5.0, attention_tokens=ATTENTION_TOKENS)

    def context(
        self,
        *,
        process_slot: int = 0,
        seed: int = 0,
        max_endpoints: int = 3,
        parameters: PolicyParameters | None = None,
        options: Mapping[str, object] | None = None,
        loads: FleetLoads | None = None,
    ) -> PolicyContext:
        """What one process makes its policies with."""
        return PolicyContext(
            max_endpoints=max_endpoints,
            rng=random.Random(seed),
            clock=self.clock,
            parameters=parameters or PolicyParameters(),
            turns=SharedCounter(self.segment, counter=0, process_slot=process_slot),
            loads=loads or self.loads(),
            prefixes=self._prefix_index(),
            stickies=StickyMap(self.segment.part(Part.STICKY_MAP)),
            lengths=LengthColumns(self.segment, process_slot=process_slot),
            options=options or {},
        )

    def accounts(
        self,
        *,
        process_slot: int = 0,
        worker_at: Callable[[str, int | None], Worker | None] = lambda _address, _rank: None,
        loads: FleetLoads | None = None,
    ) -> Accounts:
        """The accounting of one process, beside policies with the same ``loads``."""
        return Accounts(
            column=self.table.column(process_slot),
            table=self.table,
            prefixes=self.prefixes,
            breakers=self.breakers,
            work=loads or self.loads(),
            worker_at=worker_at,
            clock=self.clock,
            assumed_answer_tokens=256,
            speculative_secs=2.0,
        )

    def _prefix_index(self) -> PrefixIndex:
        since = self.table.engines[:, Engine.CACHED_SINCE]
        return PrefixIndex(memory=self.segment.part(Part.PREFIX_INDEX), clock=self.clock, cached_since=since)


def candidates(count: int) -> Candidates:
    return Candidates(workers(count))


def prompt(tokens: int, *, seed: int = 0, block_size: int = 16) -> PromptTokens:
    """A prompt of random ids; prompts of one seed begin alike."""
    ids = np.random.default_rng(seed).integers(0, 128_000, tokens, dtype=np.uint32)
    root = root_hash(model="m")
    return PromptTokens(ids, block_hashes(ids, block_size=block_size, before=root), block_size, root, "miss")


def request_with(*prompts: PromptTokens, headers: Mapping[str, str] | None = None) -> RoutingRequest:
    """A request whose prompts are known."""
    return RoutingRequest(method="POST", path="/v1/chat/completions", headers=headers or {}, prompts=prompts)
