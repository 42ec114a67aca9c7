import math
from collections import Counter

import pytest

from extproc.config.policies import ConsistentHashingSettings, PolicyParameters
from extproc.policies.base import Choice, Reason
from extproc.policies.consistent_hashing import ConsistentHashing
from tests.support.fleets import Shared, candidates, request_with

KEY, TARGET = "x-extproc-routing-key", "x-extproc-target-worker"
KEYS = [f"session {number}" for number in range(400)]


def policy_with(
    shared: Shared, settings: ConsistentHashingSettings | None = None, *, max_endpoints: int = 3
) -> ConsistentHashing:
    parameters = PolicyParameters(consistent_hashing=settings or ConsistentHashingSettings())
    return ConsistentHashing(shared.context(parameters=parameters, max_endpoints=max_endpoints))


def ids(choice: Choice) -> list[str]:
    return [worker.id for worker in choice.workers]


def test_removing_a_worker_moves_only_its_keys_and_those_to_their_fall_back() -> None:
    policy, everyone = policy_with(Shared()), candidates(4)
    left = everyone.only([0, 1, 3])
    moved = 0
    for key in KEYS:
        request = request_with(headers={KEY: key})
        before, after = policy.choose(request, everyone), policy.choose(request, left)
        assert before.reason is after.reason is Reason.RING
        is_moved = ids(before)[0] == "w2"
        moved += is_moved
        assert ids(after)[0] == ids(before)[int(is_moved)]
    assert 50 < moved < 150


def test_a_hot_key_never_exceeds_the_bound_and_walks_on_along_the_ring() -> None:
    shared, everyone = Shared(), candidates(4)
    policy, accounts = policy_with(shared, max_endpoints=4), shared.accounts()
    request = request_with(headers={KEY: "hot"})
    ring = ids(policy.choose(request, everyone))
    in_flight: Counter[str] = Counter()
    for sent in range(1, 101):
        choice = policy.choose(request, everyone)
        accounts.start(request, choice, record=False)
        most = math.ceil(1.25 * sent / 4)
        # The first on the ring that has room, and the ring goes on from there.
        start = next(at for at, worker in enumerate(ring) if in_flight[worker] < most)
        assert ids(choice) == [*ring[start:], *ring[:start]]
        assert choice.reason is (Reason.RING_NEXT if start else Reason.RING)
        in_flight[ids(choice)[0]] += 1
        assert max(in_flight.values()) <= most
    assert in_flight[ring[0]] == 32


def test_without_a_load_factor_a_key_stays_whatever_the_load() -> None:
    shared, everyone = Shared(), candidates(4)
    request = request_with(headers={KEY: "hot"})
    ring = policy_with(Shared()).choose(request, everyone)
    shared.table.column(0).add(ring.workers[0].slot, requests=1000)
    bounded = policy_with(shared).choose(request, everyone)
    assert (ids(bounded)[0], bounded.reason) == (ids(ring)[1], Reason.RING_NEXT)
    unbounded = policy_with(shared, ConsistentHashingSettings(load_factor=0)).choose(request, everyone)
    assert (ids(unbounded), unbounded.reason) == (ids(ring), Reason.RING)


@pytest.mark.parametrize("header", [TARGET, "x-smg-target-worker"])
def test_a_worker_named_by_its_id_is_taken_before_key_and_load(header: str) -> None:
    shared, everyone = Shared(), candidates(4)
    shared.table.column(0).add(2, requests=1000)
    policy = policy_with(shared, max_endpoints=4)
    for key in KEYS[:20]:
        choice = policy.choose(request_with(headers={header: "w2", KEY: key}), everyone)
        ring = ids(policy_with(Shared(), max_endpoints=4).choose(request_with(headers={KEY: key}), everyone))
        assert choice.reason is Reason.TARGET_WORKER
        assert ids(choice) == ["w2", *[worker for worker in ring if worker != "w2"]]


@pytest.mark.parametrize("target", ["0", "2", "-1", "w9", "10.0.0.2:8000"])
def test_a_target_that_is_no_candidate_falls_through_to_the_routing_key(target: str) -> None:
    """An index is no id."""
    policy, everyone = policy_with(Shared()), candidates(4)
    for key in KEYS[:20]:
        expected = policy.choose(request_with(headers={KEY: key}), everyone)
        assert policy.choose(request_with(headers={TARGET: target, KEY: key}), everyone) == expected
    assert policy.choose(request_with(headers={TARGET: target}), everyone).reason is Reason.RING


def test_both_prefixes_of_the_key_header_mean_the_same_key() -> None:
    policy, everyone = policy_with(Shared()), candidates(4)
    for key, other in zip(KEYS, reversed(KEYS), strict=True):
        expected = policy.choose(request_with(headers={KEY: key}), everyone)
        assert policy.choose(request_with(headers={"x-smg-routing-key": key}), everyone) == expected
        assert policy.choose(request_with(headers={"x-smg-routing-key": other, KEY: key}), everyone) == expected


def test_configured_headers_are_keys_in_their_order_after_the_routing_key() -> None:
    everyone = candidates(4)
    policy = policy_with(Shared(), ConsistentHashingSettings(header_names=("x-session", "x-user")))
    for key, other in zip(KEYS, reversed(KEYS), strict=True):
        expected = policy.choose(request_with(headers={KEY: key}), everyone)
        for headers in (
            {"x-session": key},
            {"x-user": key},
            {"x-session": key, "x-user": other},
            {"x-user": other, KEY: key},
        ):
            assert policy.choose(request_with(headers=headers), everyone) == expected


def test_without_a_key_the_least_loaded_is_taken_and_no_other_header_is_hashed() -> None:
    shared, everyone = Shared(), candidates(4)
    for slot, tokens in enumerate((4000, 2000, 1000, 3000)):
        shared.table.column(0).add(slot, prefill_tokens=tokens)
    policy = policy_with(shared)
    headers = {"authorization": "Bearer abc", "cookie": "c", "x-session": "s", KEY: ""}
    choice = policy.choose(request_with(headers=headers), everyone)
    assert (ids(choice), choice.reason) == (["w2", "w1", "w3"], Reason.NO_KEY)
