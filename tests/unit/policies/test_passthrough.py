import logging
from collections import Counter

import pytest

from extproc.policies.base import Reason
from extproc.policies.passthrough import Passthrough
from tests.support.fleets import Shared, candidates, request_with


def test_the_only_worker_is_taken_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    shared, everyone = Shared(), candidates(1)
    shared.table.column(0).add(0, requests=1000)
    choice = Passthrough(shared.context()).choose(request_with(), everyone)
    assert (choice.workers, choice.reason) == (everyone.workers, Reason.ONLY_WORKER)
    assert not caplog.records


def test_of_several_any_is_taken_and_counted_as_such() -> None:
    policy, everyone = Passthrough(Shared().context(max_endpoints=2)), candidates(3)
    chosen = [policy.choose(request_with(), everyone) for _ in range(3000)]
    assert {choice.reason for choice in chosen} == {Reason.FIRST_OF_MANY}
    assert {len(choice.workers) for choice in chosen} == {2}
    counts = Counter(choice.workers[0].id for choice in chosen)
    assert len(counts) == 3
    assert all(850 < count < 1150 for count in counts.values())


def test_several_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    policy = Passthrough(Shared().context())
    with caplog.at_level(logging.WARNING):
        for size in (1, 2, 4, 1, 3):
            policy.choose(request_with(), candidates(size))
    assert [record.getMessage() for record in caplog.records] == [
        "The policy passthrough is for one worker, and there are 2"
    ]
