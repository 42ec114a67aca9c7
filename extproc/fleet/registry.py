"""From lists of wanted workers and probe results to the fleet that is published. Pure: no I/O, no clock of its own."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

from extproc.config.fleet import FleetSettings, WorkerSpec
from extproc.fleet.health.tracker import HealthTracker
from extproc.fleet.load.engine_load import LoraState
from extproc.fleet.worker import Fleet, Worker, WorkerKey, WorkerState

IDLE_LOOKS_BEFORE_GONE = 2


@dataclasses.dataclass(slots=True)
class _Entry:
    """One worker. ``wanted`` is what the last list says, ``state`` what routers are told."""

    key: WorkerKey
    slot: int
    spec: WorkerSpec
    health: HealthTracker
    wanted: Literal["active", "draining", "gone"]
    state: WorkerState
    unwanted_since: float = 0.0
    idle_looks: int = 0
    lora: LoraState | None = None


class FleetRegistry:
    """Every worker that is known, each in a slot of the in-flight table that stays its own.

    **Slots.** A worker keeps its slot for as long as it is known. A slot is given away again only when its worker is
    gone *and* nothing is in flight there, so that a count never lands on a stranger. A worker for which no slot is
    free is ``unplaced`` and gets one at a later look.

    **Start.** The workers of the first list of a service are taken to be healthy: nothing is known of them, and
    assuming the worst would answer 503 to everything until the first round of probes. A worker that a later list adds
    starts unhealthy and waits for its first probe, which is sent at once: the others carry the load meanwhile, and a
    worker that is still loading its model gets no request it cannot serve.

    **Leaving.** A worker missing from the list drains: it is known, but gets nothing new, until two looks in a row
    find nothing in flight there or ``drain_timeout_secs`` have passed. One that comes back meanwhile goes on in its
    slot. Draining begins only when every worker added with the same list has answered its first probe (for at most
    twice the probe's time-out), so that replacing a whole fleet in one edit leaves no gap without any worker.

    **Identity.** Another address under the same id is another worker: the one leaves, the other is added.

    **Ranks.** A server with data parallel ranks is as many workers, each in a slot of its own; they come and go
    together. Another number of ranks makes other workers of it. They take over its health, and the former ones leave at
    once: a rank that the server has no more would be answered 400.

    ``restored`` is the fleet that a predecessor published; its slots, states and health go on. Times are seconds of any
    one clock; ``in_flight`` is the number of requests in flight by slot, over all processes.
    """

    def __init__(self, *, settings: FleetSettings, restored: Fleet | None = None) -> None:
        self._settings = settings
        self._entries: dict[WorkerKey, _Entry] = {}
        self._specs: tuple[WorkerSpec, ...] = ()
        self._ranks_at: dict[str, int] = {}
        self._trusting = restored is None
        self._published: tuple[Worker, ...] | None = None
        self.unplaced: tuple[WorkerKey, ...] = ()
        for worker in restored.workers if restored is not None else ():
            health = self._tracker(healthy=worker.healthy, on_trial=False)
            self._entries[worker.key] = _Entry(
                worker.key,
                worker.slot,
                spec_of(worker),
                health,
                wanted=worker.state,
                state=worker.state,
                lora=worker.lora,
            )

    def adopt(self, specs: Sequence[WorkerSpec], *, now: float, in_flight: Sequence[int]) -> None:
        """Take a full list of the workers that there shall be."""
        self._specs = tuple(specs)
        self._ranks_at = {spec.address: spec.data_parallel_size for spec in specs}
        wanted = {key for spec in specs for key in _keys(spec)}
        for entry in self._entries.values():
            if entry.key not in wanted and entry.wanted != "gone":
                entry.unwanted_since = now
                entry.wanted = "gone"
        self._place(now, in_flight)
        self._trusting = False
        self._begin_drains(now)
        self._published = None

    def record(self, key: WorkerKey, *, good: bool, now: float) -> None:
        """Take a probe result; one for a worker that is gone is ignored."""
        entry = self._entries.get(key)
        if entry is not None and entry.health.record(good=good):
            self._begin_drains(now)
            self._published = None

    def note_lora(self, key: WorkerKey, lora: LoraState | None) -> None:
        """Take what an engine says of its adapters; of a worker that is gone it is ignored."""
        entry = self._entries.get(key)
        if entry is not None and entry.lora != lora:
            entry.lora = lora
            self._published = None

    def look(self, *, now: float, in_flight: Sequence[int]) -> None:
        """Let go of workers that have finished leaving and place those that wait for a slot.

        To be called every fraction of a second while ``restless``; looks must lie further apart than a router needs
        from choosing a worker to counting the request.
        """
        for entry in list(self._entries.values()):
            if entry.wanted == "gone" and entry.state == "draining":
                entry.idle_looks = 0 if in_flight[entry.slot] else entry.idle_looks + 1
                timed_out = now - entry.unwanted_since >= self._settings.drain_timeout_secs
                if entry.idle_looks >= IDLE_LOOKS_BEFORE_GONE or timed_out:
                    del self._entries[entry.key]
                    self._published = None
        if self.unplaced:
            self._place(now, in_flight)
        self._begin_drains(now)

    @property
    def restless(self) -> bool:
        """Whether time alone may change something, so that ``look`` is worth calling."""
        return bool(self.unplaced) or any(
            entry.wanted == "gone" or entry.wanted != entry.state for entry in self._entries.values()
        )

    def workers(self) -> tuple[Worker, ...]:
        """Every known worker, by id; the same object until something changes."""
        if self._published is None:
            self._published = tuple(_worker(entry) for _, entry in sorted(self._entries.items()))
        return self._published

    def _place(self, now: float, in_flight: Sequence[int]) -> None:
        """Bring the listed workers into the table, adding those that are new to it."""
        free = self._free_slots(in_flight)
        unplaced = []
        for spec in self._specs:
            for key in _keys(spec):
                entry = self._entries.get(key)
                if entry is None:
                    slot = next(free, None)
                    if slot is None:
                        unplaced.append(key)
                        continue
                    health = self._first_health(key)
                    state: WorkerState = "draining" if spec.draining else "active"
                    entry = self._entries[key] = _Entry(key, slot, spec, health, wanted=state, state=state)
                    self._published = None
                self._want(entry, spec, now)
        self.unplaced = tuple(unplaced)

    def _first_health(self, key: WorkerKey) -> HealthTracker:
        """Return what a new worker begins with: the health of those whose place it takes, if there are any."""
        healthy = self._trusting or any(
            entry.health.healthy and entry.key.address == key.address and self._is_superseded(entry)
            for entry in self._entries.values()
        )
        return self._tracker(healthy=healthy, on_trial=not healthy)

    def _is_superseded(self, entry: _Entry) -> bool:
        """Whether the same server is listed with another number of ranks."""
        ranks = self._ranks_at.get(entry.key.address, entry.key.ranks)
        return entry.wanted == "gone" and ranks != entry.key.ranks

    def _want(self, entry: _Entry, spec: WorkerSpec, now: float) -> None:
        entry.spec = spec
        entry.idle_looks = 0
        if not spec.draining:
            entry.wanted = entry.state = "active"
        else:
            if entry.wanted == "active":
                entry.unwanted_since = now
            entry.wanted = "draining"

    def _begin_drains(self, now: float) -> None:
        trials = any(entry.health.on_trial and entry.wanted == "active" for entry in self._entries.values())
        patience_secs = 2 * self._settings.health_timeout_secs
        for entry in self._entries.values():
            if entry.wanted == "active" or entry.state == "draining":
                continue
            if not trials or self._is_superseded(entry) or now - entry.unwanted_since >= patience_secs:
                entry.state = "draining"
                self._published = None

    def _free_slots(self, in_flight: Sequence[int]) -> Iterator[int]:
        taken = {entry.slot for entry in self._entries.values()}
        return (slot for slot, count in enumerate(in_flight) if not count and slot not in taken)

    def _tracker(self, *, healthy: bool, on_trial: bool) -> HealthTracker:
        return HealthTracker(
            unhealthy_threshold=self._settings.unhealthy_threshold,
            healthy_threshold=self._settings.healthy_threshold,
            healthy=healthy,
            on_trial=on_trial,
        )


def spec_of(worker: Worker) -> WorkerSpec:
    """Return the entry of a list that a worker comes from; all ranks of a server have the same one but for its state.

    It is draining if the worker is.
    """
    return WorkerSpec(
        address=worker.address,
        id=worker.id.removesuffix(f"/{worker.rank}") if worker.ranks > 1 else worker.id,
        models=worker.models,
        draining=worker.state == "draining",
        data_parallel_size=worker.ranks,
        kv_events_endpoint=worker.kv_events_endpoint,
        kv_events_replay_endpoint=worker.kv_events_replay_endpoint,
        kv_events_topic=worker.kv_events_topic,
    )


def _keys(spec: WorkerSpec) -> list[WorkerKey]:
    ranks = spec.data_parallel_size
    return [WorkerKey(name, spec.address, rank, ranks) for rank, name in enumerate(spec.rank_ids)]


def _worker(entry: _Entry) -> Worker:
    key, spec = entry.key, entry.spec
    return Worker(
        id=key.id,
        address=key.address,
        slot=entry.slot,
        models=spec.models,
        state=entry.state,
        healthy=entry.health.healthy,
        lora=entry.lora,
        rank=key.rank,
        ranks=key.ranks,
        kv_events_endpoint=spec.kv_events_endpoint,
        kv_events_replay_endpoint=spec.kv_events_replay_endpoint,
        kv_events_topic=spec.kv_events_topic,
    )
