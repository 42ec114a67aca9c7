import pytest

from extproc.config.models import ModelSpec
from extproc.fleet.worker import Fleet, Worker
from extproc.observer.changes import describe_changes
from tests.support.fleets import worker

W0 = "Worker w0 at 10.0.0.0:8000"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((), (worker(0),), [f"{W0} is added in slot 0, healthy"]),
        ((worker(0),), (worker(0, healthy=False),), [f"{W0} is not healthy"]),
        ((worker(0),), (worker(0, draining=True),), [f"{W0} is draining"]),
        ((worker(0),), (worker(0, models=("a", "b")),), [f"{W0} serves a, b"]),
        ((worker(0, models=("a",)),), (worker(0),), [f"{W0} serves any model"]),
        ((worker(0, draining=True),), (), [f"{W0} is gone"]),
        ((Worker(id="a:1", address="a:1", slot=0),), (), ["Worker a:1 is gone"]),
        ((worker(0), worker(1)), (worker(1), worker(0)), []),
    ],
)
def test_says_what_differs_between_workers(
    before: tuple[Worker, ...], after: tuple[Worker, ...], expected: list[str]
) -> None:
    assert list(describe_changes(Fleet(workers=before), Fleet(workers=after))) == expected


M, N = ModelSpec(name="m"), ModelSpec(name="n")


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((), (M,), ["Model m is added"]),
        ((M, N), (N,), ["Model m is gone"]),
        ((M,), (N,), ["Model n is added", "Model m is gone"]),
        ((M,), (ModelSpec(name="m", block_size=32, aliases=("a",)),), ["Model m is changed: aliases, block_size"]),
        ((M, N), (N, M), []),
    ],
)
def test_says_what_differs_between_models(
    before: tuple[ModelSpec, ...], after: tuple[ModelSpec, ...], expected: list[str]
) -> None:
    assert list(describe_changes(Fleet(workers=(), models=before), Fleet(workers=(), models=after))) == expected


def test_workers_and_models_are_told_of_together() -> None:
    before, after = Fleet(workers=(worker(0),)), Fleet(workers=(), models=(M,))
    assert list(describe_changes(before, after)) == [f"{W0} is gone", "Model m is added"]
