import pytest

from extproc.errors import NoEndpoint
from extproc.routing.candidates import within_subset
from tests.support.fleets import candidates


@pytest.mark.parametrize(
    ("subset", "expected"),
    [
        (("10.0.0.1:8000",), ["w1"]),
        (("10.0.0.2:8000", "10.0.0.0:8000", "10.9.9.9:1"), ["w0", "w2"]),
        (("10.0.0.1",), ["w1"]),
    ],
    ids=["one", "several, order of the fleet", "address without port"],
)
def test_keeps_what_the_hint_allows(subset: tuple[str, ...], expected: list[str]) -> None:
    assert [worker.id for worker in within_subset(candidates(3), subset)] == expected


@pytest.mark.parametrize(
    "subset", [(), ("10.0.0.1:9999",), ("10.0.0",)], ids=["empty", "other port", "part of an address"]
)
def test_refuses_when_nothing_is_allowed(subset: tuple[str, ...]) -> None:
    with pytest.raises(NoEndpoint):
        within_subset(candidates(3), subset)
