import pytest

from extproc.fleet.health.tracker import HealthTracker


def tracker(*, healthy: bool, on_trial: bool = False) -> HealthTracker:
    return HealthTracker(unhealthy_threshold=3, healthy_threshold=2, healthy=healthy, on_trial=on_trial)


def health_after(subject: HealthTracker, results: str) -> str:
    seen = ""
    for result in results:
        subject.record(good=result == "+")
        seen += "+" if subject.healthy else "-"
    return seen


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ("---", "++-"),
        ("--+--", "+++++"),  # a good result in between starts the count again
        ("---++", "++--+"),
        ("---+-++", "++----+"),
    ],
)
def test_only_results_in_a_row_change_the_health(results: str, expected: str) -> None:
    assert health_after(tracker(healthy=True), results) == expected


@pytest.mark.parametrize(("results", "expected"), [("+", "+"), ("-++", "--+"), ("+---", "+++-")])
def test_the_first_result_alone_decides_over_a_worker_on_trial(results: str, expected: str) -> None:
    assert health_after(tracker(healthy=False, on_trial=True), results) == expected


def test_tells_when_something_changed() -> None:
    subject = tracker(healthy=False, on_trial=True)
    assert subject.record(good=False)
    assert not subject.on_trial
    assert not subject.record(good=True)
    assert subject.record(good=True)
    assert not subject.record(good=True)
