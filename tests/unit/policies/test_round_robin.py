from extproc.policies.round_robin import RoundRobin
from tests.support.fleets import Shared, candidates, request_with


def test_takes_turns_and_falls_back_to_the_next_in_order() -> None:
    policy = RoundRobin(Shared().context(max_endpoints=2))
    everyone = candidates(3)
    chosen = [[w.id for w in policy.choose(request_with(), everyone).workers] for _ in range(4)]
    assert chosen == [["w0", "w1"], ["w1", "w2"], ["w2", "w0"], ["w0", "w1"]]


def test_processes_share_the_turns() -> None:
    shared = Shared()
    policies = [RoundRobin(shared.context(process_slot=slot)) for slot in range(4)]
    everyone = candidates(4)
    chosen = [policy.choose(request_with(), everyone).workers[0].id for policy in policies]
    assert chosen == ["w0", "w1", "w2", "w3"]
