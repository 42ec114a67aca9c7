"""One hot prefix of 9 KB, four workers, four clients, 100 ms of service: no herd, and affinity where prefill is dear.

For the first seconds every prompt is another one, as at a service that has been running; then all are the hot one.
"""

import random
from collections.abc import Callable

import pytest

from extproc.api.request import RoutingRequest
from extproc.policies.base import Reason
from extproc.simulation.timeline import Timeline
from tests.simulation.engines import Engine, Parallel, Serial
from tests.simulation.service import Result, Simulation
from tests.support.fleets import prompt, request_with

TOKENS = 2300
HOT = prompt(TOKENS)
HOT_FROM_SECS = 5.0
SPREAD_SECS = 3.0
"""Until then it may take: the engines' metrics, which show that requests wait, are read once a second."""
SERVICE_SECS = 0.1
CHEAP, DEAR = 46_000, 1150
"""Tokens a second: the prompt takes 50 ms, half as long as waiting for a request, or 2 s, longer than for three."""

POLICIES = pytest.mark.parametrize("policy", ["cache_aware", "expected_latency"])
STREAMED = pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
ROUTERS = pytest.mark.parametrize("routers", [1, 4], ids=["one router", "four routers"])


def hot_after_a_while(rng: random.Random, secs: float) -> RoutingRequest:
    return request_with(HOT if secs >= HOT_FROM_SECS else prompt(TOKENS, seed=rng.getrandbits(32)))


def always(_rng: random.Random) -> float:
    return SERVICE_SECS


def on_average(rng: random.Random) -> float:
    return rng.expovariate(1 / SERVICE_SECS)


def simulate(
    policy: str,
    engine: Callable[[Timeline], Engine],
    *,
    answer_secs: Callable[[random.Random], float] = always,
    streamed: bool,
    from_secs: float,
    routers: int = 4,
    seed: int = 0,
) -> Result:
    """Run the scenario and look at it ``from_secs`` on."""
    return Simulation(
        policy=policy,
        engine=engine,
        request=hot_after_a_while,
        answer_secs=answer_secs,
        clients=4,
        worker_count=4,
        routers=routers,
        streamed=streamed,
        warm_up_secs=from_secs,
        seed=seed,
    ).run()


def serial(prefill_rate: float) -> Callable[[Timeline], Engine]:
    return lambda timeline: Serial(timeline, prefill_rate=prefill_rate)


def parallel(prefill_rate: float) -> Callable[[Timeline], Engine]:
    return lambda timeline: Parallel(timeline, prefill_rate=prefill_rate)


@POLICIES
@STREAMED
@ROUTERS
@pytest.mark.parametrize("answer_secs", [always, on_average], ids=["equal answers", "random answers"])
def test_no_worker_is_idle_where_computing_the_prompt_costs_less_than_waiting(
    policy: str, streamed: bool, routers: int, answer_secs: Callable[[random.Random], float]
) -> None:
    result = simulate(
        policy,
        serial(CHEAP),
        answer_secs=answer_secs,
        streamed=streamed,
        routers=routers,
        from_secs=HOT_FROM_SECS + SPREAD_SECS,
    )
    assert result.idle_share < 0.02
    assert result.mean_first_byte_secs < 0.005
    assert result.in_flight_at_end == 0


def test_with_affinity_alone_three_workers_would_be_idle_and_requests_wait() -> None:
    """What the others are measured by: the same scenario with a policy that never gives way so early."""
    result = simulate("prefix_hash", serial(CHEAP), streamed=True, from_secs=HOT_FROM_SECS + SPREAD_SECS)
    assert result.idle_share == pytest.approx(0.75)
    assert result.mean_first_byte_secs == pytest.approx(3 * SERVICE_SECS, rel=0.05)


@POLICIES
@STREAMED
@ROUTERS
@pytest.mark.parametrize("engine", [serial(DEAR), parallel(DEAR)], ids=["one at a time", "side by side"])
@pytest.mark.parametrize("answer_secs", [always, on_average], ids=["equal answers", "random answers"])
def test_affinity_is_kept_where_prefill_is_dear(
    policy: str,
    streamed: bool,
    routers: int,
    engine: Callable[[Timeline], Engine],
    answer_secs: Callable[[random.Random], float],
) -> None:
    """From the first hot request on: even a burst of them does not scatter."""
    result = simulate(
        policy, engine, answer_secs=answer_secs, streamed=streamed, routers=routers, from_secs=HOT_FROM_SECS
    )
    assert result.affinity >= 0.9
    assert result.in_flight_at_end == 0


@STREAMED
def test_the_gateway_says_why_it_spreads_the_prefix(streamed: bool) -> None:
    result = simulate("cache_aware", serial(CHEAP), streamed=streamed, from_secs=HOT_FROM_SECS)
    reasons = {reason for _, reason in result.chosen}
    assert reasons == {Reason.NO_MATCH, Reason.SPILL_COST, Reason.PREFIX_MATCH}


def test_a_run_depends_on_its_seed_alone() -> None:
    one, same, other = [
        simulate(
            "expected_latency", serial(CHEAP), answer_secs=on_average, streamed=True, from_secs=HOT_FROM_SECS, seed=seed
        )
        for seed in (1, 1, 2)
    ]
    assert one.chosen == same.chosen
    assert one.first_byte_secs == same.first_byte_secs
    assert one.chosen != other.chosen
