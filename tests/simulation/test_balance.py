"""Four routers, eight workers, 256 requests in flight: how evenly the requests are spread, on average and at worst."""

import random
from collections.abc import Callable

import pytest

from extproc.api.request import RoutingRequest
from extproc.simulation.timeline import Timeline
from tests.simulation.engines import Batching, Engine, Parallel, Serial
from tests.simulation.service import Result, Simulation
from tests.support.fleets import prompt, request_with

BARS = {"least_load": 1.10, "power_of_two": 1.25}
PREFILL_RATE = 30_000

BALANCED = pytest.mark.parametrize(("policy", "bar"), BARS.items(), ids=BARS)
STREAMED = pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])


def short(rng: random.Random, _secs: float) -> RoutingRequest:
    return request_with(prompt(64, seed=rng.getrandbits(32)))


def mixed(rng: random.Random, _secs: float) -> RoutingRequest:
    return request_with(prompt(rng.choice((64, 256, 1024, 4096)), seed=rng.getrandbits(32)))


def simulate(
    policy: str,
    kind: type[Parallel | Batching | Serial],
    *,
    answer_secs: float,
    streamed: bool = True,
    request: Callable[[random.Random, float], RoutingRequest] = short,
    jitter_secs: float = 0.0,
    seed: int = 0,
) -> Result:
    """Run with answers that take ``answer_secs`` on average, and first bytes that come late by chance."""
    rng = random.Random(1000 + seed)

    def engine(timeline: Timeline) -> Engine:
        return kind(timeline, prefill_rate=PREFILL_RATE, overhead=lambda: rng.random() * 2 * jitter_secs)

    return Simulation(
        policy=policy,
        engine=engine,
        request=request,
        answer_secs=lambda rng: rng.expovariate(1 / answer_secs),
        clients=256,
        worker_count=8,
        routers=4,
        streamed=streamed,
        warm_up_secs=4.0,
        secs=12.0,
        seed=seed,
    ).run()


@BALANCED
@STREAMED
@pytest.mark.parametrize("jitter_secs", [0.0, 0.005], ids=["regular", "jittery"])
@pytest.mark.parametrize("kind", [Parallel, Batching], ids=["side by side", "batching"])
def test_requests_are_spread_evenly_over_engines_that_serve_many_at_once(
    policy: str, bar: float, kind: type[Parallel | Batching], streamed: bool, jitter_secs: float
) -> None:
    for seed in range(2):
        result = simulate(policy, kind, answer_secs=1.0, streamed=streamed, jitter_secs=jitter_secs, seed=seed)
        assert result.imbalances.mean() <= bar
        assert result.imbalances.max() <= bar
        assert result.in_flight_at_end == 0


@BALANCED
@STREAMED
def test_requests_are_spread_evenly_over_engines_that_serve_one_at_a_time(
    policy: str, bar: float, streamed: bool
) -> None:
    result = simulate(policy, Serial, answer_secs=0.03, streamed=streamed)
    assert result.imbalances.mean() <= bar
    assert result.imbalances.max() <= bar
    assert result.in_flight_at_end == 0


def test_a_blind_policy_would_miss_both_bars() -> None:
    result = simulate("random", Parallel, answer_secs=1.0)
    assert result.imbalances.mean() > max(BARS.values())


@pytest.mark.parametrize("policy", BARS)
def test_first_bytes_come_sooner_than_by_chance_where_prompts_differ_in_length(policy: str) -> None:
    """What is spread evenly then is the work: the requests in flight differ by more."""
    seen, blind = (simulate(name, Batching, answer_secs=3.0, request=mixed) for name in (policy, "random"))
    assert seen.mean_first_byte_secs < 0.75 * blind.mean_first_byte_secs
