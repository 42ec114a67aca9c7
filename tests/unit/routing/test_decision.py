from extproc.policies.base import Choice, Reason
from extproc.routing.decision import Decision
from tests.support.fleets import Shared, request_with, worker


def test_release_gives_everything_back_once() -> None:
    shared = Shared()
    accounts = shared.accounts()
    one = worker(1)
    other = accounts.start(request_with(), Choice((one,), Reason.RANDOM), record=False)
    flight = accounts.start(request_with(), Choice((one,), Reason.RANDOM), record=False)
    given_back: list[str] = []
    decision = Decision(
        "a",
        one,
        "random",
        Reason.RANDOM,
        accounts=accounts,
        flight=flight,
        on_release=lambda: given_back.append("place"),
    )
    decision.release()
    decision.release()
    assert (shared.table.requests_at(1), given_back) == (1, ["place"])
    accounts.finish(other)
    assert shared.table.requests_at(1) == 0
