"""Names of models: aliases, LoRA adapters, and who is best prepared for an adapter."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.config.models import ModelSpec
from extproc.fleet.load.engine_load import LoraState
from extproc.fleet.view import FleetView, best_prepared
from extproc.fleet.worker import Fleet, Worker
from tests.support.fleets import worker

BASE = ModelSpec(name="base", aliases=("alias", "other"), lora_adapters=("french", "legal"))
UNRELATED = ModelSpec(name="unrelated", aliases=("far",))
NAMES = ("base", "alias", "other", "french", "legal")


class Published:
    """A fleet in private memory."""

    def __init__(self, *workers: Worker, models: tuple[ModelSpec, ...]) -> None:
        self.generation = 1
        self._content = msgspec.json.encode(Fleet(workers=workers, models=models))

    def read(self) -> tuple[int, bytes] | None:
        return self.generation, self._content


def view_of(*workers: Worker, models: tuple[ModelSpec, ...] = (BASE, UNRELATED)) -> FleetView:
    view = FleetView(Published(*workers, models=models))
    view.refresh()
    return view


def with_lora(index: int, *, running: tuple[str, ...] = (), waiting: tuple[str, ...] = (), most: int = 2) -> Worker:
    state = LoraState(max_adapters=most, running=running, waiting=waiting)
    return msgspec.structs.replace(worker(index), lora=state)


def ids(view: FleetView, model: str | None) -> list[str]:
    return [found.id for found in view.candidates(model)]


@pytest.mark.parametrize("declared", ["base", "alias", "other"])
@pytest.mark.parametrize("asked", NAMES)
def test_every_name_of_a_model_reaches_workers_that_declare_any_name_of_the_base(declared: str, asked: str) -> None:
    view = view_of(worker(0, models=(declared,)), worker(1, models=("unrelated",)))
    assert ids(view, asked) == ["w0"]
    assert view.serves(asked)
    assert ids(view, "far") == ["w1"]


def test_a_worker_that_declares_only_an_adapter_gets_that_adapter_alone() -> None:
    view = view_of(worker(0, models=("french",)), worker(1, models=("base",)))
    assert ids(view, "french") == ["w0", "w1"]
    assert ids(view, "legal") == ["w1"]
    assert ids(view, "base") == ["w1"]
    assert not view_of(worker(0, models=("french",))).serves("base")


def test_a_worker_that_declares_several_names_is_one_candidate() -> None:
    view = view_of(worker(0, models=("alias", "base", "french")), worker(1))
    assert ids(view, "french") == ["w0", "w1"]
    assert ids(view, "base") == ["w0", "w1"]


def test_workers_that_serve_any_model_serve_configured_ones_too() -> None:
    view = view_of(worker(0, models=("unrelated",)), worker(1))
    assert [ids(view, name) for name in NAMES] == [["w1"]] * len(NAMES)
    assert ids(view, "far") == ["w0", "w1"]


def test_a_name_that_is_not_configured_stands_for_itself() -> None:
    view = view_of(worker(0, models=("base",)), worker(1, models=("mine",)), models=())
    assert ids(view, "base") == ["w0"]
    assert ids(view, "mine") == ["w1"]
    assert ids(view, "alias") == []
    assert not view.serves("alias")


def test_a_model_is_served_while_none_of_its_workers_can_take_requests() -> None:
    view = view_of(worker(0, models=("alias",), healthy=False))
    assert view.serves("french")
    assert ids(view, "french") == []


def test_the_configured_model_is_found_by_any_name() -> None:
    view = view_of(worker(0))
    assert [view.spec_of(name) for name in NAMES] == [BASE] * len(NAMES)
    assert view.spec_of("far") == UNRELATED
    assert view.spec_of("nobody") is None


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sets(st.sampled_from((*NAMES, "unrelated", "far", "mine"))), st.booleans()), max_size=8),
    st.sampled_from((*NAMES, "unrelated", "far", "mine", "nobody")),
)
def test_candidates_are_the_workers_of_the_models_names(workers: list[tuple[set[str], bool]], asked: str) -> None:
    fleet = [worker(at, models=tuple(models), healthy=healthy) for at, (models, healthy) in enumerate(workers)]
    names = {asked}
    for spec in (BASE, UNRELATED):
        if asked in {spec.name, *spec.aliases, *spec.lora_adapters}:
            names |= {spec.name, *spec.aliases}
    serving = [found for found in fleet if not found.models or names & set(found.models)]
    view = view_of(*fleet)
    assert ids(view, asked) == [found.id for found in serving if found.healthy]
    assert view.serves(asked) == bool(serving)


LOADED = with_lora(0, running=("legal", "french"))
ROOMY = with_lora(1, running=("legal",))
SILENT = worker(2)
LOADING = with_lora(3, running=("legal", "tax"), waiting=("french",))
FULL = with_lora(4, running=("legal", "tax"))


@pytest.mark.parametrize(
    ("workers", "best"),
    [
        ((LOADED, ROOMY, SILENT, LOADING, FULL), ["w0"]),
        ((ROOMY, SILENT, LOADING, FULL), ["w1", "w2"]),
        ((LOADING, FULL), ["w3"]),
        ((FULL,), ["w4"]),
        ((), []),
    ],
    ids=["has it loaded", "has room, or does not tell", "is loading it", "all, when none is prepared", "nobody"],
)
def test_of_an_adapters_workers_only_the_best_prepared_are_left(workers: tuple[Worker, ...], best: list[str]) -> None:
    assert [found.id for found in best_prepared(workers, "french")] == best
    assert ids(view_of(*workers), "french") == best


def test_the_base_model_does_not_care_who_has_which_adapter() -> None:
    view = view_of(LOADED, ROOMY, SILENT, LOADING, FULL)
    assert ids(view, "base") == ids(view, "alias") == ["w0", "w1", "w2", "w3", "w4"]


def test_an_adapter_that_is_only_seen_at_an_engine_counts_too() -> None:
    view = view_of(LOADED, with_lora(1, running=("swedish",)), models=())
    assert ids(view, "swedish") == ["w1"]
    assert ids(view, "danish") == ["w0", "w1"]


def test_a_better_prepared_worker_that_is_out_does_not_count() -> None:
    view = view_of(msgspec.structs.replace(LOADED, healthy=False), ROOMY, FULL)
    assert ids(view, "french") == ["w1"]


def test_a_place_that_two_lists_name_is_taken_once() -> None:
    assert LoraState(max_adapters=2, running=("a",), waiting=("a",)).has_room
    assert not LoraState(max_adapters=2, running=("a",), waiting=("b",)).has_room


def test_names_that_nobody_declares_are_not_kept() -> None:
    view = view_of(worker(0, models=("base",)), worker(1), LOADED)
    for index in range(1000):
        view.candidates(f"made-up-{index}")
        view.serves(f"made-up-{index}")
        view.spec_of(f"made-up-{index}")
    for name in (*NAMES, "unrelated", "far", "tax", "mine"):
        assert view.candidates(name) is view.candidates(name)
    assert set(view._by_model) <= {*NAMES, "unrelated", "far"}
    assert view.candidates("made-up-1") is view.candidates("made-up-2")
