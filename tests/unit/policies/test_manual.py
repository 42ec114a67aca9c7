from collections import Counter
from functools import partial
from typing import Literal

import pytest

from extproc.config.policies import ManualSettings, PolicyParameters
from extproc.fleet.candidates import Candidates
from extproc.policies.base import Reason
from extproc.policies.manual import Manual
from tests.support.fleets import Shared, candidates, request_with
from tests.support.processes import forked

KEY = "x-extproc-routing-key"
ASSIGNED, STICKY = Reason.STICKY_ASSIGNED, Reason.STICKY
Mode = Literal["random", "min_load", "min_group"]


def policy_with(shared: Shared, *, slot: int = 0, mode: Mode = "random", max_idle_secs: int = 14_400) -> Manual:
    parameters = PolicyParameters(manual=ManualSettings(assignment_mode=mode, max_idle_secs=max_idle_secs))
    return Manual(shared.context(process_slot=slot, seed=slot, parameters=parameters))


def ask(policy: Manual, everyone: Candidates, key: str = "key") -> tuple[str, Reason]:
    choice = policy.choose(request_with(headers={KEY: key}), everyone)
    return choice.workers[0].id, choice.reason


def without(everyone: Candidates, *gone: str) -> Candidates:
    return everyone.only([at for at, worker in enumerate(everyone) if worker.id not in gone])


def test_a_key_stays_over_processes_when_the_one_that_assigned_it_is_gone() -> None:
    shared, everyone = Shared(), candidates(8)

    def work(slot: int) -> bytes:
        policy = policy_with(shared, slot=slot)
        return " ".join(worker for worker, _ in (ask(policy, everyone, f"key {n}") for n in range(20))).encode()

    first = forked(partial(work, 1))
    assert len(set(first.split())) > 3
    assert forked(partial(work, 2)) == first
    policy = policy_with(shared, slot=3)
    again = [ask(policy, everyone, f"key {number}") for number in range(20)]
    assert again == [(worker, STICKY) for worker in first.decode().split()]


def test_a_session_returns_when_its_worker_is_a_candidate_again() -> None:
    shared, everyone = Shared(), candidates(5)
    policy = policy_with(shared)
    home, reason = ask(policy, everyone)
    assert reason is ASSIGNED
    left = without(everyone, home)
    refuge, reason = ask(policy, left)
    assert reason is ASSIGNED
    assert {ask(policy, left) for _ in range(20)} == {(refuge, STICKY)}
    for _ in range(20):
        choice = policy.choose(request_with(headers={KEY: "key"}), everyone)
        # The other one that is remembered is the first fall-back.
        assert [worker.id for worker in choice.workers[:2]] == [home, refuge]
        assert choice.reason is STICKY


def test_two_workers_are_remembered_and_the_oldest_is_dropped() -> None:
    policy, everyone = policy_with(Shared()), candidates(6)
    first, _ = ask(policy, everyone)
    second, _ = ask(policy, without(everyone, first))
    third, reason = ask(policy, without(everyone, first, second))
    assert reason is ASSIGNED
    assert ask(policy, everyone) == (second, STICKY)
    assert ask(policy, without(everyone, second)) == (third, STICKY)
    assert ask(policy, everyone.only([everyone.workers.index(w) for w in everyone if w.id == first]))[1] is ASSIGNED


def test_a_key_is_forgotten_when_it_was_idle_for_longer_than_allowed() -> None:
    shared, everyone = Shared(), candidates(8)
    policy = policy_with(shared, max_idle_secs=100)
    keys = [f"key {number}" for number in range(20)]
    homes = [ask(policy, everyone, key)[0] for key in keys]
    for _ in range(3):
        shared.clock.advance(100)
        assert [ask(policy, everyone, key) for key in keys] == [(home, STICKY) for home in homes]
    shared.clock.advance(101)
    after = [ask(policy, everyone, key) for key in keys]
    assert {reason for _, reason in after} == {ASSIGNED}
    assert [worker for worker, _ in after] != homes


def test_of_more_keys_than_fit_the_least_recently_used_is_forgotten() -> None:
    shared, everyone = Shared(sticky_entries=8), candidates(4)
    policy = policy_with(shared)
    for key in [*"abcdefgh", "a", "new"]:
        shared.clock.advance(1)
        ask(policy, everyone, key)
    assert {key: ask(policy, everyone, key)[1] for key in ("a", "c", "h", "new")} == dict.fromkeys(
        ("a", "c", "h", "new"), STICKY
    )
    assert ask(policy, everyone, "b")[1] is ASSIGNED


@pytest.mark.parametrize("mode", ["random", "min_load", "min_group"])
def test_a_request_without_a_key_is_assigned_and_not_stored(mode: Mode) -> None:
    shared, everyone = Shared(), candidates(4)
    policy = policy_with(shared, mode=mode)
    choices = [policy.choose(request_with(headers=headers), everyone) for headers in ({}, {KEY: ""}) for _ in range(50)]
    assert {choice.reason for choice in choices} == {Reason.NO_KEY}
    assert {choice.workers[0] for choice in choices} == set(everyone.workers)
    stored = shared.context().stickies.groups(now=int(shared.clock()), max_idle_secs=14_400)
    assert stored == {}


def test_min_load_assigns_the_worker_with_the_fewest_requests_and_leaves_known_keys_alone() -> None:
    shared, everyone = Shared(), candidates(4)
    policy = policy_with(shared, mode="min_load")
    for slot, requests in enumerate((5, 2, 1, 3)):
        shared.table.column(slot).add(slot, requests=requests)
    assert ask(policy, everyone, "one") == ("w2", ASSIGNED)
    shared.table.column(1).add(2, requests=9)
    assert ask(policy, everyone, "two") == ("w1", ASSIGNED)
    assert ask(policy, everyone, "one") == ("w2", STICKY)


def test_min_group_gives_every_worker_as_many_keys_whichever_process_is_asked() -> None:
    shared, everyone = Shared(), candidates(4)
    policies = [policy_with(shared, slot=slot, mode="min_group") for slot in range(2)]
    homes: Counter[str] = Counter()
    for number in range(40):
        shared.clock.advance(1)
        homes[ask(policies[number % 2], everyone, f"key {number}")[0]] += 1
        ask(policies[number % 2], everyone, "key 0")
    assert set(homes.values()) == {10}
    assert len(homes) == 4


def test_both_prefixes_of_the_key_header_mean_the_same_key() -> None:
    policy, everyone = policy_with(Shared()), candidates(8)
    for number in range(10):
        home, _ = ask(policy, everyone, f"key {number}")
        choice = policy.choose(request_with(headers={"x-smg-routing-key": f"key {number}"}), everyone)
        assert (choice.workers[0].id, choice.reason) == (home, STICKY)
