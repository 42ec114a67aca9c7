from collections import Counter
from functools import partial

from extproc.policies.round_robin import RoundRobin
from tests.support.fleets import Shared, candidates, request_with
from tests.support.processes import forked


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


def test_the_turns_outlive_the_process_that_took_them() -> None:
    shared, everyone = Shared(), candidates(3)

    def take_two() -> bytes:
        policy = RoundRobin(shared.context(process_slot=1))
        return "".join([policy.choose(request_with(), everyone).workers[0].id for _ in range(2)]).encode()

    assert [forked(take_two), forked(take_two)] == [b"w0w1", b"w2w0"]
    assert RoundRobin(shared.context()).choose(request_with(), everyone).workers[0].id == "w1"


def test_is_even_however_the_processes_take_turns() -> None:
    shared, everyone = Shared(), candidates(7)
    policies = [RoundRobin(shared.context(process_slot=slot)) for slot in range(4)]
    asked = [policies[number * number % 4] for number in range(700)]
    counts = Counter(policy.choose(request_with(), everyone).workers[0].id for policy in asked)
    assert set(counts.values()) == {100}


def test_goes_on_where_it_was_when_a_worker_leaves() -> None:
    shared, everyone = Shared(), candidates(3)
    policy = RoundRobin(shared.context())
    chosen = partial(policy.choose, request_with())
    assert [chosen(everyone).workers[0].id for _ in range(2)] == ["w0", "w1"]
    assert [chosen(everyone.only([0, 2])).workers[0].id for _ in range(3)] == ["w0", "w2", "w0"]
