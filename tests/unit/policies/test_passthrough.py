import logging

import pytest

from extproc.policies.base import Reason
from extproc.policies.passthrough import Passthrough
from tests.support.fleets import Shared, candidates, request_with


def test_the_one_worker_is_taken() -> None:
    choice = Passthrough(Shared().context()).choose(request_with(), candidates(1))
    assert ([worker.id for worker in choice.workers], choice.reason) == (["w0"], Reason.ONLY_WORKER)


def test_several_are_counted_under_a_reason_of_their_own_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    policy = Passthrough(Shared().context(max_endpoints=2))
    with caplog.at_level(logging.WARNING):
        choices = [policy.choose(request_with(), candidates(3)) for _ in range(30)]
    assert {choice.reason for choice in choices} == {Reason.FIRST_OF_MANY}
    assert {worker.id for choice in choices for worker in choice.workers[:1]} == {"w0", "w1", "w2"}
    assert all(len(set(choice.workers)) == 2 for choice in choices)
    assert [record.getMessage() for record in caplog.records] == [
        "The policy passthrough is for one worker, and there are 3"
    ]
