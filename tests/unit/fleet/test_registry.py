import pytest

from extproc.config.fleet import FleetSettings, WorkerSpec
from extproc.fleet.registry import FleetRegistry, spec_of
from extproc.fleet.worker import Fleet, Worker, WorkerKey

SETTINGS = FleetSettings(unhealthy_threshold=2, healthy_threshold=1, health_timeout_secs=1.0, drain_timeout_secs=100.0)


def spec(
    name: str, *, address: str = "", models: tuple[str, ...] = (), draining: bool = False, ranks: int = 1
) -> WorkerSpec:
    return WorkerSpec(
        id=name, address=address or f"{name}:8000", models=models, draining=draining, data_parallel_size=ranks
    )


class Bench:
    """A registry with a clock and an in-flight table that a case moves by hand."""

    def __init__(self, *, slots: int = 8, settings: FleetSettings = SETTINGS, restored: Fleet | None = None) -> None:
        self.registry = FleetRegistry(settings=settings, restored=restored)
        self.in_flight = [0] * slots
        self.now = 1000.0

    def adopt(self, *specs: WorkerSpec) -> None:
        self.registry.adopt(specs, now=self.now, in_flight=self.in_flight)

    def probe(self, name: str, *results: bool, address: str = "") -> None:
        for good in results:
            self.registry.record(WorkerKey(name, address or f"{name}:8000"), good=good, now=self.now)

    def look(self, times: int = 1, *, secs: float = 0.25) -> None:
        for _ in range(times):
            self.now += secs
            self.registry.look(now=self.now, in_flight=self.in_flight)

    def __getitem__(self, name: str) -> Worker:
        (found,) = [worker for worker in self.registry.workers() if worker.id == name]
        return found

    @property
    def shown(self) -> dict[str, str]:
        """Every worker's state, marked with ``!`` when it is unhealthy."""
        return {worker.id: worker.state + ("" if worker.healthy else "!") for worker in self.registry.workers()}


def test_the_first_list_is_taken_to_be_healthy() -> None:
    bench = Bench()
    bench.adopt(spec("a"), spec("b"))
    assert bench.shown == {"a": "active", "b": "active"}
    assert [bench["a"].slot, bench["b"].slot] == [0, 1]


def test_a_worker_without_an_id_is_called_by_its_address() -> None:
    bench = Bench()
    bench.adopt(WorkerSpec(address="10.0.0.1:8000"))
    assert bench.registry.workers()[0].id == "10.0.0.1:8000"


def test_a_worker_added_later_waits_for_its_first_good_probe() -> None:
    bench = Bench()
    bench.adopt(spec("a"))
    bench.adopt(spec("a"), spec("b"))
    assert bench.shown == {"a": "active", "b": "active!"}
    bench.probe("b", True)
    assert bench.shown == {"a": "active", "b": "active"}


def test_thresholds_take_a_worker_out_and_bring_it_back() -> None:
    bench = Bench()
    bench.adopt(spec("a"))
    bench.probe("a", False)
    assert bench["a"].healthy
    bench.probe("a", False)
    assert not bench["a"].healthy
    bench.probe("a", True)
    assert bench["a"].healthy


def test_models_change_in_place() -> None:
    bench = Bench()
    bench.adopt(spec("a", models=("x",)))
    bench.adopt(spec("a", models=("x", "y")))
    assert bench["a"].models == ("x", "y")
    assert (bench["a"].slot, bench["a"].healthy) == (0, True)


def test_a_worker_marked_draining_stays_for_ever_and_can_come_back() -> None:
    bench = Bench()
    bench.adopt(spec("a"), spec("b"))
    bench.adopt(spec("a"), spec("b", draining=True))
    bench.look(20, secs=100)
    assert bench.shown == {"a": "active", "b": "draining"}
    assert not bench.registry.restless
    bench.adopt(spec("a"), spec("b"))
    assert bench.shown == {"a": "active", "b": "active"}


def test_a_removed_worker_is_gone_after_two_looks_without_requests() -> None:
    bench = Bench()
    bench.adopt(spec("a"), spec("b"))
    bench.in_flight[1] = 3
    bench.adopt(spec("a"))
    bench.look(10)
    assert bench.shown == {"a": "active", "b": "draining"}
    bench.in_flight[1] = 0
    bench.look()
    assert "b" in bench.shown
    bench.look()
    assert bench.shown == {"a": "active"}
    assert not bench.registry.restless


def test_a_request_between_two_looks_starts_the_count_again() -> None:
    bench = Bench()
    bench.adopt(spec("a"), spec("b"))
    bench.adopt(spec("a"))
    bench.look()
    bench.in_flight[1] = 1
    bench.look()
    bench.in_flight[1] = 0
    bench.look()
    assert "b" in bench.shown
    bench.look()
    assert "b" not in bench.shown


def test_the_drain_timeout_ends_the_wait_but_its_slot_is_not_given_away() -> None:
    bench = Bench(slots=3)
    bench.adopt(spec("a"), spec("b"))
    bench.in_flight[1] = 1
    bench.adopt(spec("a"))
    bench.look(99, secs=1)
    assert "b" in bench.shown
    bench.look(1, secs=1)
    assert "b" not in bench.shown
    bench.adopt(spec("a"), spec("c"))
    assert bench["c"].slot == 2
    bench.in_flight[1] = 0
    bench.adopt(spec("a"), spec("c"), spec("d"))
    assert bench["d"].slot == 1


def test_one_that_comes_back_while_draining_goes_on_in_its_slot() -> None:
    bench = Bench()
    bench.adopt(spec("a"), spec("b"))
    bench.in_flight[1] = 1
    bench.adopt(spec("a"))
    bench.adopt(spec("a"), spec("b"))
    assert bench.shown == {"a": "active", "b": "active"}
    assert bench["b"].slot == 1


def test_another_address_under_the_same_id_is_another_worker() -> None:
    bench = Bench()
    bench.adopt(spec("a", address="one:1"), spec("b"))
    bench.in_flight[0] = 1
    bench.adopt(spec("a", address="two:2"), spec("b"))
    bench.probe("a", True, address="two:2")
    states = {(worker.address, worker.slot, worker.state) for worker in bench.registry.workers()}
    assert states == {("one:1", 0, "draining"), ("two:2", 2, "active"), ("b:8000", 1, "active")}


@pytest.mark.parametrize("answer", [True, False], ids=["good", "bad"])
def test_removed_workers_serve_until_their_replacements_have_answered(answer: bool) -> None:
    bench = Bench()
    bench.adopt(spec("a"), spec("b"))
    bench.adopt(spec("c"), spec("d"))
    bench.look(2)
    bench.probe("c", answer)
    assert bench.shown["a"] == bench.shown["b"] == "active"
    bench.probe("d", answer)
    assert bench.shown["a"] == bench.shown["b"] == "draining"


def test_replacements_that_never_answer_hold_up_a_removal_only_for_two_timeouts() -> None:
    bench = Bench()
    bench.adopt(spec("a"))
    bench.adopt(spec("b"))
    bench.look(7)
    assert bench.shown == {"a": "active", "b": "active!"}
    bench.look()
    assert bench.shown == {"a": "draining", "b": "active!"}


def test_a_worker_without_a_slot_waits_and_is_placed_when_one_is_free() -> None:
    bench = Bench(slots=2)
    bench.adopt(spec("a"), spec("b"))
    bench.adopt(spec("b"), spec("c"))
    assert bench.registry.unplaced == (WorkerKey("c", "c:8000"),)
    bench.look(3)
    assert not bench.registry.unplaced
    assert bench.shown == {"b": "active", "c": "active!"}
    assert bench["c"].slot == 0


def test_results_of_workers_that_are_gone_are_ignored() -> None:
    bench = Bench()
    bench.adopt(spec("a"))
    bench.probe("stranger", True, False)
    assert bench.shown == {"a": "active"}


def test_a_restored_fleet_keeps_slots_states_and_health() -> None:
    before = Bench()
    before.adopt(spec("a"), spec("b"), spec("c"), spec("d"))
    before.probe("b", False, False)
    before.adopt(spec("b"), spec("c"), spec("d", draining=True))
    published = Fleet(workers=before.registry.workers())
    after = Bench(restored=published)
    assert after.registry.workers() == published.workers
    after.adopt(spec("b"), spec("c"), spec("d", draining=True), spec("e"))
    assert after.shown == {"a": "draining", "b": "active!", "c": "active", "d": "draining", "e": "active!"}
    assert [after[name].slot for name in "abcd"] == [before[name].slot for name in "abcd"]
    after.look(2)
    assert "a" not in after.shown


def test_a_restored_draining_worker_gets_the_whole_drain_timeout() -> None:
    before = Bench()
    before.adopt(spec("a"), spec("b"))
    before.adopt(spec("a"))
    after = Bench(restored=Fleet(workers=before.registry.workers()))
    after.in_flight[1] = 1
    after.adopt(spec("a"))
    after.look(9, secs=10)
    assert after.shown["b"] == "draining"


def test_hands_out_the_same_tuple_until_something_changes() -> None:
    bench = Bench()
    bench.adopt(spec("a"))
    first = bench.registry.workers()
    bench.probe("a", True)
    bench.look(3)
    assert bench.registry.workers() is first


def test_a_server_with_ranks_is_as_many_workers_at_one_address() -> None:
    bench = Bench()
    bench.adopt(spec("a", ranks=3, models=("m",)), spec("b"))
    ranks = [bench[f"a/{rank}"] for rank in range(3)]
    assert [(one.address, one.slot, one.rank, one.ranks, one.models) for one in ranks] == [
        ("a:8000", rank, rank, 3, ("m",)) for rank in range(3)
    ]
    assert (bench["b"].rank, bench["b"].ranks, bench["b"].slot) == (0, 1, 3)


def test_a_server_with_ranks_and_without_an_id_is_called_by_its_address() -> None:
    bench = Bench()
    bench.adopt(WorkerSpec(address="10.0.0.1:80", data_parallel_size=2))
    assert list(bench.shown) == ["10.0.0.1:80/0", "10.0.0.1:80/1"]


@pytest.mark.parametrize(("before", "after"), [(2, 4), (2, 1), (1, 2), (4, 2)])
def test_another_number_of_ranks_makes_other_workers_which_take_over_at_once(before: int, after: int) -> None:
    bench = Bench(slots=16)
    bench.adopt(spec("a", ranks=before), spec("b"))
    bench.adopt(spec("a", ranks=after), spec("b"), spec("c"))
    at_a = [worker for worker in bench.registry.workers() if worker.address == "a:8000"]
    assert len({worker.slot for worker in at_a}) == before + after
    assert {(worker.ranks, worker.state, worker.healthy) for worker in at_a} == {
        (before, "draining", True),
        (after, "active", True),
    }, "c, which is on trial, holds up nobody"
    bench.look(2)
    assert {worker.ranks for worker in bench.registry.workers() if worker.address == "a:8000"} == {after}


def test_another_number_of_ranks_does_not_make_a_dead_server_healthy() -> None:
    bench = Bench()
    bench.adopt(spec("a"), spec("b"))
    bench.probe("a", False, False)
    bench.adopt(spec("a", ranks=2), spec("b"))
    assert (bench.shown["a/0"], bench.shown["a/1"]) == ("active!", "active!")


def test_a_number_of_ranks_that_is_taken_back_is_that_of_the_former_workers() -> None:
    bench = Bench(slots=16)
    bench.adopt(spec("a", ranks=2))
    slots = [bench["a/0"].slot, bench["a/1"].slot]
    bench.in_flight = [1] * 16
    bench.adopt(spec("a"))
    bench.adopt(spec("a", ranks=2))
    assert bench.shown["a/0"] == bench.shown["a/1"] == "active"
    assert [bench["a/0"].slot, bench["a/1"].slot] == slots


def test_ranks_for_which_there_is_no_slot_wait() -> None:
    bench = Bench(slots=2)
    bench.adopt(spec("a", ranks=3))
    assert list(bench.shown) == ["a/0", "a/1"]
    assert bench.registry.unplaced == (WorkerKey("a/2", "a:8000", 2, 3),)


def test_all_of_a_worker_is_restored() -> None:
    bench = Bench()
    given = WorkerSpec(
        address="a:8000",
        id="a",
        data_parallel_size=2,
        kv_events_endpoint="tcp://{host}:5557",
        kv_events_replay_endpoint="tcp://{host}:6557",
        kv_events_topic="kv",
    )
    bench.adopt(given)
    before = bench.registry.workers()
    assert {spec_of(worker) for worker in before} == {given}
    restored = Bench(restored=Fleet(workers=before))
    assert restored.registry.workers() == before
    restored.adopt(given)
    assert restored.registry.workers() == before


def test_endpoints_of_events_change_in_place() -> None:
    bench = Bench()
    bench.adopt(spec("a"))
    bench.adopt(WorkerSpec(id="a", address="a:8000", kv_events_endpoint="tcp://{host}:1", kv_events_topic="t"))
    assert (bench["a"].kv_events_endpoint, bench["a"].kv_events_topic, bench["a"].slot) == ("tcp://{host}:1", "t", 0)
