"""Whatever lists, probes and requests come in whatever order: what holds of slots and of who may be chosen."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from extproc.config.fleet import FleetSettings, WorkerSpec
from extproc.fleet.registry import FleetRegistry
from extproc.fleet.worker import Fleet, WorkerKey

SLOTS = 5
SETTINGS = FleetSettings(unhealthy_threshold=2, healthy_threshold=2, health_timeout_secs=1.0, drain_timeout_secs=20.0)
NAMES = st.sampled_from("abcdefg")

specs = st.builds(
    WorkerSpec,
    id=NAMES,
    address=st.sampled_from([f"10.0.0.{number}:1" for number in range(1, 6)]),
    draining=st.booleans(),
    models=st.sampled_from([(), ("m",)]),
    data_parallel_size=st.sampled_from([1, 1, 2, 3]),
)
lists = st.lists(specs, max_size=7, unique_by=(lambda spec: spec.id, lambda spec: spec.address))


class Registry(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.registry = FleetRegistry(settings=SETTINGS)
        self.now = 0.0
        self.in_flight = [0] * SLOTS
        self.slots: dict[WorkerKey, int] = {}
        self.owners: dict[int, WorkerKey] = {}
        self.listed: dict[WorkerKey, WorkerSpec] = {}
        self.specs: tuple[WorkerSpec, ...] = ()

    @rule(specs=lists)
    def list_workers(self, specs: list[WorkerSpec]) -> None:
        self.listed = {
            WorkerKey(name, spec.address, rank, spec.data_parallel_size): spec
            for spec in specs
            for rank, name in enumerate(spec.rank_ids)
        }
        self.specs = tuple(specs)
        self.registry.adopt(specs, now=self.now, in_flight=self.in_flight)

    @rule(data=st.data(), good=st.booleans())
    @precondition(lambda self: self.registry.workers())
    def probe(self, data: st.DataObject, good: bool) -> None:
        worker = data.draw(st.sampled_from(self.registry.workers()))
        self.registry.record(worker.key, good=good, now=self.now)

    @rule(data=st.data())
    @precondition(lambda self: any(worker.eligible for worker in self.registry.workers()))
    def start_request(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from([worker for worker in self.registry.workers() if worker.eligible]))
        self.in_flight[worker.slot] += 1

    @rule(data=st.data())
    @precondition(lambda self: any(self.in_flight))
    def finish_request(self, data: st.DataObject) -> None:
        self.in_flight[data.draw(st.sampled_from([slot for slot in range(SLOTS) if self.in_flight[slot]]))] -= 1

    @rule(secs=st.floats(0.25, 8))
    def look(self, secs: float) -> None:
        self.now += secs
        self.registry.look(now=self.now, in_flight=self.in_flight)

    @rule()
    def restart_the_observer(self) -> None:
        before = self.registry.workers()
        self.registry = FleetRegistry(settings=SETTINGS, restored=Fleet(workers=before))
        assert self.registry.workers() == before
        self.registry.adopt(self.specs, now=self.now, in_flight=self.in_flight)

    @rule()
    def let_everything_finish(self) -> None:
        self.in_flight = [0] * SLOTS
        for _ in range(6):
            self.now += 1
            self.registry.look(now=self.now, in_flight=self.in_flight)
        known = {worker.key for worker in self.registry.workers()}
        unplaced = set(self.registry.unplaced)
        assert known | unplaced == set(self.listed)
        assert len(known) == min(SLOTS, len(self.listed))
        for worker in self.registry.workers():
            assert (worker.state == "draining") == self.listed[worker.key].draining
        assert self.registry.restless == bool(unplaced)

    @invariant()
    def slots_are_unique_and_in_range(self) -> None:
        slots = [worker.slot for worker in self.registry.workers()]
        assert len(set(slots)) == len(slots)
        assert all(0 <= slot < SLOTS for slot in slots)

    @invariant()
    def a_known_worker_never_moves_and_a_slot_changes_hands_only_when_nothing_is_in_flight_there(self) -> None:
        slots = {worker.key: worker.slot for worker in self.registry.workers()}
        for key, slot in slots.items():
            assert self.slots.get(key, slot) == slot
            if self.owners.get(slot) != key:
                assert self.in_flight[slot] == 0
                self.owners[slot] = key
        self.slots = slots

    @invariant()
    def listed_workers_have_what_their_list_says(self) -> None:
        by_key = {worker.key: worker for worker in self.registry.workers()}
        for key, spec in self.listed.items():
            if key in by_key:
                assert by_key[key].models == spec.models
                assert spec.draining or by_key[key].state == "active"
            else:
                assert key in self.registry.unplaced

    @invariant()
    def once_its_successors_have_answered_a_removed_worker_gets_nothing(self) -> None:
        removed = [worker for worker in self.registry.workers() if worker.key not in self.listed]
        if any(worker.state == "active" for worker in removed):
            assert self.registry.restless
            assert any(worker.key in self.listed and not worker.healthy for worker in self.registry.workers())


Registry.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestRegistry = pytest.mark.timeout(60)(Registry.TestCase)
