"""Which request's end frees the way for the next trial of a worker whose breaker is half-open."""

from extproc.fleet.breaker import TURN_SECS
from extproc.policies.base import Choice, Reason
from tests.support.fleets import Shared, candidates, request_with


def test_only_the_end_of_the_trial_itself_frees_the_way_for_another() -> None:
    shared = Shared()
    accounts = shared.accounts()
    both = candidates(2)
    choice = Choice((both[0],), Reason.RANDOM)
    before = accounts.start(request_with(), choice, record=False)
    for _ in range(3):
        shared.breakers.failed(0)
    assert both[0] not in shared.breakers.usable(both)
    shared.clock.advance(1.05)
    assert both[0] in shared.breakers.usable(both)
    trial = accounts.start(request_with(), choice, record=False)
    accounts.finish(before)
    shared.clock.advance(TURN_SECS)
    assert both[0] not in shared.breakers.usable(both)
    accounts.finish(trial)
    assert both[0] in shared.breakers.usable(both)
