"""Whole runs in virtual time: nothing is lost, everything repeats, and what is told of the service is true."""

import dataclasses

import numpy as np
import pytest

from extproc.simulation.contenders import CONTENDERS
from extproc.simulation.loads.generators.registry import LOADS
from extproc.simulation.loads.load import BLOCK_TOKENS, Load
from extproc.simulation.simulation import Run, Setting, Simulation
from extproc.simulation.summary import summarize
from workers.engine.profile import load_profile

PROFILE = load_profile("h100-8b", block_size=BLOCK_TOKENS)
SETTING = Setting(profile=PROFILE, workers=4)
CHAT = LOADS["chat"](requests=300, rate=20.0)


def play(policy: str, load: Load = CHAT, setting: Setting = SETTING) -> Run:
    return Simulation(load=load, setting=setting, contender=CONTENDERS[policy]).run()


@pytest.mark.parametrize("policy", sorted(set(CONTENDERS) - {"passthrough"}))
def test_every_policy_serves_every_request_to_its_end(policy: str) -> None:
    requests = play(policy).requests
    assert len(requests) == CHAT.requests
    ttft, latency = requests.floats("ttft"), requests.floats("latency")
    cached, prompt, ideal = (requests.integers(name) for name in ("cached", "prompt", "ideal"))
    assert (ttft > PROFILE.frontend.secs).all()
    assert (latency >= ttft).all()
    assert ((cached >= 0) & (cached < prompt)).all()
    assert (cached <= ideal).all(), "no cache has more than the ideal one"
    assert set(requests.integers("worker").tolist()) <= set(range(4))


@pytest.mark.parametrize("name", LOADS)
def test_every_built_in_load_is_played_to_the_end(name: str) -> None:
    load = LOADS[name](requests=200)
    assert len(play("expected_latency", load).requests) == 200


def test_the_same_seed_gives_the_same_run_and_another_one_another() -> None:
    one, same, other = (
        play("power_of_two", setting=dataclasses.replace(SETTING, seed=seed, replicas=2)).requests for seed in (1, 1, 2)
    )
    for column in ("sent_at", "ttft", "latency"):
        assert one.floats(column).tobytes() == same.floats(column).tobytes()
    assert one.integers("worker").tobytes() == same.integers("worker").tobytes()
    assert one.integers("worker").tobytes() != other.integers("worker").tobytes()


def test_no_time_to_first_token_is_below_that_of_a_lone_request() -> None:
    run = play("oracle")
    summary = summarize(run, profile=PROFILE, workers=4)
    lone = [
        PROFILE.lone_ttft_secs(prompt, cached)
        for prompt, cached in zip(
            run.requests.integers("prompt").tolist(), run.requests.integers("cached").tolist(), strict=True
        )
    ]
    assert (run.requests.floats("ttft") >= np.array(lone) - 1e-9).all()
    assert summary.least_ttft_secs <= summary.ttft.mean


def test_a_replica_does_not_know_what_another_one_has_sent() -> None:
    def overestimated(replicas: int) -> float:
        setting = dataclasses.replace(SETTING, replicas=replicas)
        requests = play("longest_prefix", setting=setting).requests
        matched, cached = requests.integers("matched"), requests.integers("cached")
        return float(np.maximum(cached - matched, 0).sum() / requests.integers("prompt").sum())

    assert overestimated(1) < 0.1
    assert overestimated(4) > overestimated(1)


def test_cache_events_tell_what_was_evicted() -> None:
    tight = dataclasses.replace(
        SETTING, profile=load_profile("h100-8b", block_size=BLOCK_TOKENS, kv_cache_tokens=40_960)
    )
    told = dataclasses.replace(tight, event_delay_secs=0.05)
    blind, seeing = (
        summarize(play("longest_prefix", CHAT, setting), profile=tight.profile, workers=4) for setting in (tight, told)
    )
    assert blind.overestimate is not None
    assert seeing.overestimate is not None
    assert blind.evictions > 0
    assert seeing.overestimate < 0.5 * blind.overestimate


def test_an_engine_that_must_have_evicted_a_prefix_is_not_believed_to_hold_it() -> None:
    """``smg_cache_aware`` believes that all it ever sent is cached; our policies are told by the engines' counters."""
    load = LOADS["rag"](requests=1200, rate=6.0)
    tight = dataclasses.replace(
        SETTING, profile=load_profile("h100-8b", block_size=BLOCK_TOKENS, kv_cache_tokens=131_072)
    )
    told, untold = (
        summarize(play(policy, load, tight), profile=tight.profile, workers=4)
        for policy in ("cache_aware", "smg_cache_aware")
    )
    assert told.overestimate is not None
    assert untold.overestimate is not None
    assert told.overestimate < 0.5 * untold.overestimate
