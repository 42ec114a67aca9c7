from extproc.policies.base import Reason
from extproc.routing.decision import Decision
from tests.support.fleets import Column, worker


def test_release_lowers_the_count_once() -> None:
    column = Column()
    column.add(1, 1)
    decision = Decision("a", worker(1), "random", Reason.RANDOM, column)
    decision.release()
    decision.release()
    assert (column.total, column.lowest) == (0, 0)
