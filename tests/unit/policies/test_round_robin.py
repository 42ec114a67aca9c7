import random

from extproc.policies.base import PolicyContext
from extproc.policies.round_robin import RoundRobin
from tests.support.fleets import Turns, workers
from tests.unit.policies.test_family import REQUEST


def test_takes_turns_and_falls_back_to_the_next_in_order() -> None:
    policy = RoundRobin(PolicyContext(max_endpoints=2, rng=random.Random(0), turns=Turns()))
    chosen = [[w.id for w in policy.choose(REQUEST, workers(3)).workers] for _ in range(4)]
    assert chosen == [["w0", "w1"], ["w1", "w2"], ["w2", "w0"], ["w0", "w1"]]


def test_processes_that_share_a_counter_share_the_turns() -> None:
    turns = Turns()
    policies = [RoundRobin(PolicyContext(max_endpoints=1, rng=random.Random(0), turns=turns)) for _ in range(4)]
    chosen = [policy.choose(REQUEST, workers(4)).workers[0].id for policy in policies]
    assert chosen == ["w0", "w1", "w2", "w3"]
