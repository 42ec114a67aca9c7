import pytest

from extproc.fleet.discovery.left_out import MAX_NAMED, LeftOut
from extproc.telemetry.metrics import DiscoveryMetrics
from tests.support.discovery import counted


class Case:
    def __init__(self) -> None:
        self.metrics = DiscoveryMetrics()
        self.left_out = LeftOut(source="dns", metrics=self.metrics)

    @property
    def conflicts(self) -> float:
        return counted(self.metrics.faults, source="dns", reason="conflict")


def test_what_stays_left_out_is_told_once_and_what_comes_back_again(caplog: pytest.LogCaptureFixture) -> None:
    case = Case()
    for names, count in ((["a", "b"], 2), (["b", "a"], 2), (["a", "c"], 3), ([], 3), (["a"], 4)):
        case.left_out.note("conflict", names, why="as it is taken")
        assert case.conflicts == count
    assert caplog.messages == [
        "Discovery by dns: 2 left out, as it is taken: a, b",
        "Discovery by dns: 1 left out, as it is taken: c",
        "Discovery by dns: 1 left out, as it is taken: a",
    ]


def test_reasons_and_parts_are_kept_apart() -> None:
    case = Case()
    case.left_out.note("conflict", ["a"], why="")
    case.left_out.note("conflict", ["a"], part="x", why="")
    case.left_out.note("too_many", ["a"], why="")
    case.left_out.note("conflict", ["a"], why="")
    assert case.conflicts == 2


def test_a_line_of_the_log_has_a_bearable_length(caplog: pytest.LogCaptureFixture) -> None:
    Case().left_out.note("conflict", [f"w{n:04}" for n in range(1000)], why="as it is taken")
    (message,) = caplog.messages
    assert message.endswith(f"w{MAX_NAMED - 1:04}, ...")
    assert "1000 left out" in message
