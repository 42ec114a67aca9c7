from extproc.policies.base import Choice, Reason
from extproc.routing.accounting import MAX_LINGER_SECS
from extproc.routing.decision import Decision
from tests.support.fleets import Shared, request_with, worker


def test_release_gives_everything_back_once() -> None:
    shared = Shared()
    accounts = shared.accounts()
    one = worker(1)
    other = accounts.start(request_with(), Choice((one,), Reason.RANDOM), record=False)
    flight = accounts.start(request_with(), Choice((one,), Reason.RANDOM), record=False)
    given_back: list[str] = []
    flight.on_end = lambda: given_back.append("place")
    decision = Decision(
        "a",
        one,
        "random",
        Reason.RANDOM,
        accounts=accounts,
        flight=flight,
    )
    decision.release()
    decision.release()
    assert (shared.table.requests_at(1), given_back) == (1, ["place"])
    accounts.finish(other)
    assert shared.table.requests_at(1) == 0


def test_what_a_request_holds_is_kept_for_as_long_as_its_answer_may_be_on_its_way() -> None:
    shared = Shared()
    accounts = shared.accounts()
    one = worker(1)
    flight = accounts.start(request_with(), Choice((one,), Reason.RANDOM), record=False)
    given_back: list[str] = []
    flight.on_end = lambda: given_back.append("place")
    Decision("a", one, "random", Reason.RANDOM, accounts=accounts, flight=flight).release(early=True)
    assert (shared.table.requests_at(1), given_back) == (1, [])
    shared.clock.advance(MAX_LINGER_SECS)
    accounts.sweep()
    assert (shared.table.requests_at(1), given_back) == (0, ["place"])
