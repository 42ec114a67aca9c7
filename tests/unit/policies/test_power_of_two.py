from collections import Counter
from typing import Literal

import pytest

from extproc.config.policies import PolicyParameters, PowerOfTwoSettings
from extproc.fleet.candidates import Candidates
from extproc.policies.base import Reason
from extproc.policies.power_of_two import PowerOfTwo
from extproc.shm.worker_table import Engine
from tests.support.fleets import Shared, candidates, request_with

Metric = Literal["expected_wait", "requests", "kv_usage"]


def policy_by(metric: Metric, shared: Shared, *, seed: int = 0, max_endpoints: int = 3) -> PowerOfTwo:
    parameters = PolicyParameters(power_of_two=PowerOfTwoSettings(load_metric=metric))
    return PowerOfTwo(shared.context(seed=seed, max_endpoints=max_endpoints, parameters=parameters))


def orders(policy: PowerOfTwo, everyone: Candidates, *, draws: int) -> Counter[str]:
    """How often each order of workers came, as the numbers of their ids."""
    chosen = [policy.choose(request_with(), everyone) for _ in range(draws)]
    assert {choice.reason for choice in chosen} == {Reason.LESS_LOADED_OF_TWO}
    return Counter("".join(worker.id[1:] for worker in choice.workers) for choice in chosen)


def tell(shared: Shared, slot: int, *, kv_usage: float, ago: float = 0.0) -> None:
    shared.table.engines[slot, Engine.KV_USAGE] = kv_usage
    shared.table.engines[slot, Engine.SCRAPED_AT] = shared.clock() - ago


@pytest.mark.parametrize(("metric", "order"), [("expected_wait", "10"), ("requests", "01"), ("kv_usage", "10")])
def test_the_less_loaded_of_two_wins_by_the_metric(metric: Metric, order: str) -> None:
    """The first worker has the longer prompt and the fuller cache, the second has more requests."""
    shared = Shared()
    column = shared.table.column(0)
    column.add(0, requests=1, prefill_tokens=16_000)
    column.add(1, requests=9)
    tell(shared, 0, kv_usage=0.8)
    tell(shared, 1, kv_usage=0.3)
    assert orders(policy_by(metric, shared), candidates(2), draws=40) == {order: 40}


@pytest.mark.parametrize("ago", [0.0, 60.0])
def test_engines_of_which_one_is_silent_are_compared_by_requests(ago: float) -> None:
    """It told long ago, and would win by what it told then."""
    shared = Shared()
    column = shared.table.column(0)
    column.add(0, requests=2)
    column.add(1, requests=5)
    tell(shared, 0, kv_usage=0.9)
    tell(shared, 1, kv_usage=0.1, ago=ago)
    expected = "01" if ago else "10"
    assert orders(policy_by("kv_usage", shared), candidates(2), draws=40) == {expected: 40}


def test_a_worker_is_first_as_often_as_it_is_the_less_loaded_one_of_a_pair() -> None:
    """Of the six pairs of four workers; the most loaded one never."""
    shared = Shared()
    for slot in range(4):
        shared.table.column(0).add(slot, requests=slot * 100)
    policy, draws = policy_by("requests", shared, seed=5, max_endpoints=1), 6000
    first = orders(policy, candidates(4), draws=draws)
    assert set(first) == {"0", "1", "2"}
    for worker, pairs in (("0", 3), ("1", 2), ("2", 1)):
        assert abs(first[worker] - draws * pairs / 6) < 200


def test_a_heavily_loaded_worker_leaves_the_others_equal_shares() -> None:
    shared = Shared()
    shared.table.column(0).add(2, requests=50, prefill_tokens=100_000)
    first = orders(policy_by("expected_wait", shared, max_endpoints=1), candidates(4), draws=3000)
    assert set(first) == {"0", "1", "3"}
    assert all(850 < count < 1150 for count in first.values())


def test_what_other_processes_have_in_flight_counts() -> None:
    shared = Shared()
    shared.table.column(1).add(0, requests=2)
    shared.table.column(3).add(0, requests=2)
    shared.table.column(0).add(1, requests=3)
    assert orders(policy_by("requests", shared), candidates(2), draws=40) == {"10": 40}


def test_falls_back_to_the_other_of_the_two_and_then_to_the_third() -> None:
    shared = Shared()
    shared.table.column(0).add(0, requests=1)
    shared.table.column(0).add(1, requests=2)
    assert set(orders(policy_by("requests", shared), candidates(3), draws=600)) == {"012", "201", "210"}
