import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.config.models import ModelSpec
from extproc.fleet.view import FleetView
from extproc.fleet.worker import Fleet, Worker
from extproc.shm.fleet import FleetDocument
from extproc.shm.segment import Segment
from tests.support.fleets import ranks_of, worker


class Document:
    """A published fleet in private memory, which can be torn."""

    def __init__(self) -> None:
        self.generation = 0
        self.content: bytes | None = None
        self.reads = 0

    def publish(self, *workers: Worker, models: tuple[ModelSpec, ...] = ()) -> None:
        self.content = msgspec.json.encode(Fleet(workers=workers, models=models))
        self.generation += 1

    def tear(self) -> None:
        self.content = None
        self.generation += 1

    def read(self) -> tuple[int, bytes] | None:
        self.reads += 1
        return None if self.content is None else (self.generation, self.content)


def view_of(*workers: Worker) -> FleetView:
    document = Document()
    document.publish(*workers)
    view = FleetView(document)
    view.refresh()
    return view


def test_knows_nothing_before_the_first_fleet() -> None:
    document = Document()
    view = FleetView(document)
    view.refresh()
    assert not view.synced
    assert view.candidates(None).workers == ()
    assert not view.serves("m")
    assert document.reads == 0


def test_reads_a_document_once_for_each_generation() -> None:
    document = Document()
    view = FleetView(document)
    document.publish(worker(0))
    for _ in range(5):
        view.refresh()
    assert document.reads == 1
    document.publish(worker(0), worker(1))
    view.refresh()
    assert document.reads == 2
    assert view.generation == 2
    assert [found.id for found in view.candidates(None)] == ["w0", "w1"]


def test_hands_out_the_same_tuple_until_a_fleet_is_published() -> None:
    view = view_of(worker(0, models=("a",)), worker(1))
    assert view.candidates("a") is view.candidates("a")
    assert view.candidates("unknown") is view.candidates("other")
    assert view.candidates(None) is view.candidates(None)


def test_keeps_the_last_good_fleet_over_a_torn_document_and_counts_it() -> None:
    torn: list[int] = []
    document = Document()
    view = FleetView(document, on_unreadable=lambda: torn.append(document.generation))
    document.publish(worker(0))
    view.refresh()
    document.tear()
    view.refresh()
    assert torn == [2]
    assert view.generation == 1
    assert view.candidates(None).workers == (worker(0),)
    document.publish(worker(1))
    view.refresh()
    assert view.candidates(None).workers == (worker(1),)


def test_tries_a_torn_document_again_at_the_next_request() -> None:
    document = Document()
    view = FleetView(document)
    document.publish(worker(0))
    whole, document.content = document.content, None
    view.refresh()
    assert not view.synced
    document.content = whole
    view.refresh()
    assert view.synced


def test_a_document_that_is_not_a_fleet_is_read_once_and_counted() -> None:
    faults: list[int] = []
    document = Document()
    view = FleetView(document, on_unreadable=lambda: faults.append(1))
    document.content, document.generation = b'{"workers": 3}', 7
    view.refresh()
    view.refresh()
    assert (faults, document.reads, view.synced) == ([1], 1, False)


def test_a_model_without_an_eligible_worker_is_still_served() -> None:
    view = view_of(worker(0, models=("a",), healthy=False), worker(1, models=("b",), draining=True))
    assert view.serves("a")
    assert view.serves("b")
    assert not view.serves("c")
    assert [view.candidates(model).workers for model in "abc"] == [(), (), ()]


def test_a_worker_without_models_serves_any() -> None:
    view = view_of(worker(0, models=("a",)), worker(1))
    assert view.needs_model
    assert view.serves("whatever")
    assert [found.id for found in view.candidates("a")] == ["w0", "w1"]
    assert [found.id for found in view.candidates("whatever")] == ["w1"]


def test_needs_no_model_when_every_worker_serves_any() -> None:
    assert not view_of(worker(0), worker(1)).needs_model


def test_reads_what_the_shared_memory_holds() -> None:
    segment = Segment.create()
    document = FleetDocument(segment)
    view = FleetView(document)
    view.refresh()
    assert not view.synced
    document.publish(msgspec.json.encode(Fleet(workers=(worker(3),))))
    view.refresh()
    assert view.candidates(None).workers == (worker(3),)
    assert view.generation == document.generation
    segment.close()


def test_models_are_the_same_object_until_one_changes() -> None:
    models = (ModelSpec(name="m", aliases=("n",), content_format="openai"), ModelSpec(name="o", block_size=32))
    document = Document()
    view = FleetView(document)
    assert not view.models
    document.publish(worker(0), models=models)
    view.refresh()
    first = view.models
    assert list(first) == list(models)
    document.publish(worker(0, healthy=False), models=models)
    view.refresh()
    assert view.generation == 2
    assert view.models is first
    document.tear()
    view.refresh()
    assert view.models is first
    document.publish(worker(0), models=models[:1])
    view.refresh()
    assert list(view.models) == [models[0]]


def test_a_document_without_models_has_none() -> None:
    document = Document()
    view = FleetView(document)
    document.content, document.generation = b'{"workers": []}', 1
    view.refresh()
    assert (view.synced, view.models) == (True, ())


def test_what_requests_name_is_not_stored() -> None:
    view = view_of(worker(0, models=("a",)), worker(1))
    for index in range(1000):
        view.candidates(f"made-up-{index}")
    assert set(view._by_model) <= {"a"}


@st.composite
def fleets(draw: st.DrawFn) -> tuple[Worker, ...]:
    return tuple(
        worker(
            index,
            models=tuple(draw(st.sets(st.sampled_from("abc")))),
            healthy=draw(st.booleans()),
            draining=draw(st.booleans()),
        )
        for index in draw(st.permutations(range(draw(st.integers(0, 12)))))
    )


@settings(deadline=None)
@given(fleet=fleets(), model=st.none() | st.sampled_from("abcd"))
def test_candidates_are_the_eligible_workers_of_the_model_by_id(fleet: tuple[Worker, ...], model: str | None) -> None:
    view = view_of(*fleet)
    serving = [found for found in fleet if model is None or not found.models or model in found.models]
    expected = sorted(found.id for found in serving if found.healthy and found.state == "active")
    assert [found.id for found in view.candidates(model)] == expected
    if model is not None:
        assert view.serves(model) == bool(serving)
    assert view.needs_model == any(found.models for found in fleet)


def test_the_worker_at_an_address_is_the_rank_that_was_named() -> None:
    view = view_of(*ranks_of(1, 3), worker(2))
    address = "10.0.0.1:8000"
    assert [view.at(address, rank) for rank in range(3)] == list(view.workers()[:3])
    assert view.at(address) == view.at(address, 7) == view.workers()[0], "any"
    assert view.at("10.0.0.2:8000", 1) == worker(2)
    assert view.at("10.0.0.3:8000", 0) is None


def test_of_the_ranks_that_a_server_had_and_has_those_in_use_are_found() -> None:
    former = [msgspec.structs.replace(one, state="draining", slot=one.slot + 8) for one in ranks_of(1, 2)]
    current = ranks_of(1, 4)
    for order in ((*former, *current), (*current, *former)):
        view = view_of(*order)
        assert [view.at("10.0.0.1:8000", rank) for rank in range(4)] == list(current)
