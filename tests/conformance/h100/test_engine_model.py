"""The model of an engine against a real one: first tokens, decode steps, stalls, and the order of policies."""

import random
from collections.abc import Iterator
from itertools import combinations
from statistics import mean, median

import pytest

from extproc.config.policies import ManualSettings, PolicyParameters
from extproc.simulation.contenders import CONTENDERS
from extproc.simulation.loads.generators.prompt import Prompt, beginnings
from extproc.simulation.loads.load import BLOCK_TOKENS, Session, Turn
from extproc.simulation.modelled import ModelledWorker
from extproc.simulation.simulation import Setting, Simulation
from extproc.simulation.timeline import Timeline, VirtualClock
from tests.conformance.h100.measured import (
    DECODE_STEPS_8B,
    FIRST_TOKENS,
    STALL_OF_8K_MS,
    THREE_INSTANCES,
    DecodeStep,
    FirstToken,
    ThreeInstances,
)
from workers.engine.profile import load_profile
from workers.engine.request import Request

PROFILES = pytest.mark.parametrize("profile", FIRST_TOKENS)
SEEDS = range(10)
CLEARLY = 1.05
"""Two policies whose measured means differ by less are not told apart: one run each was measured."""


class Lab:
    """One worker in virtual time, for a client that sends what it likes when it likes."""

    def __init__(self, profile: str) -> None:
        self.timeline = Timeline(VirtualClock())
        self._profile = load_profile(profile)
        self._worker = ModelledWorker(self.timeline, self._profile)
        self.first: dict[str, float] = {}
        self.end: dict[str, float] = {}

    def send(self, name: str, *, prompt_tokens: int, answer_tokens: int, content: int) -> None:
        """Send a prompt that is the beginning of an endless content of its own."""
        blocks = (prompt_tokens + answer_tokens) // self._profile.block_size
        request = Request(
            prompt_tokens=prompt_tokens,
            answer_tokens=answer_tokens,
            hashes=range(content << 32, (content << 32) + blocks),
            on_first=lambda at: self.first.__setitem__(name, at),
            on_end=lambda at: self.end.__setitem__(name, at),
        )
        self._worker.take(request, on_headers=lambda: None)


def ttft_ms(profile: str, point: FirstToken) -> float:
    lab = Lab(profile)
    if point.cached:
        lab.send("before", prompt_tokens=point.cached, answer_tokens=1, content=1)
        lab.timeline.run()
    sent_at = lab.timeline.now
    lab.send("it", prompt_tokens=point.cached + point.new, answer_tokens=1, content=1)
    lab.timeline.run()
    return (lab.first["it"] - sent_at) * 1e3


@PROFILES
def test_a_lone_request_has_its_first_token_when_it_was_measured(profile: str) -> None:
    points = FIRST_TOKENS[profile]
    assert len(points) == 36
    errors = {point: abs(ttft_ms(profile, point) / point.ms - 1) for point in points}
    assert max(errors.values()) <= 0.20, max(errors.items(), key=lambda item: item[1])
    assert median(errors.values()) <= 0.06


def wall_ms(step: DecodeStep, answer_tokens: int) -> float:
    lab = Lab("h100-8b")
    sent_at = lab.timeline.now
    for number in range(step.batch):
        lab.send(str(number), prompt_tokens=step.prompt, answer_tokens=answer_tokens, content=number)
    lab.timeline.run()
    return (max(lab.end.values()) - sent_at) * 1e3


@pytest.mark.parametrize("step", DECODE_STEPS_8B, ids=str)
def test_a_step_takes_as_long_as_measured(step: DecodeStep) -> None:
    """As it was measured: answers of 384 tokens against answers of 128."""
    assert (wall_ms(step, 384) - wall_ms(step, 128)) / 256 == pytest.approx(step.ms, rel=0.05)


def ends_with_a_prompt_coming_by(profile: str, *, prompt_tokens: int) -> float:
    lab = Lab(profile)
    for number in range(32):
        lab.send(str(number), prompt_tokens=512, answer_tokens=400, content=number)
    if prompt_tokens:
        lab.timeline.after(1.0, lambda: lab.send("long", prompt_tokens=prompt_tokens, answer_tokens=1, content=99))
    lab.timeline.run()
    return mean(lab.end[str(number)] for number in range(32))


def test_a_long_prompt_stalls_the_answers_under_way_as_measured() -> None:
    profile = "h100-8b"
    stalled, alone = (ends_with_a_prompt_coming_by(profile, prompt_tokens=tokens) for tokens in (8192, 0))
    assert (stalled - alone) * 1e3 == pytest.approx(STALL_OF_8K_MS[profile], rel=0.20)


class Conversations:
    """One of the measured loads on three instances."""

    name = "conversations"
    requests = 144
    secs = 1.0

    def __init__(self, load: ThreeInstances, seed: int) -> None:
        self._load = load
        self._seed = seed

    def sessions(self) -> Iterator[Session]:
        load, rng = self._load, random.Random(self._seed)
        systems = beginnings([load.system_tokens] * load.systems)
        for number in range(24):
            prompt = systems[number % load.systems].copy()
            yield Session(number * load.gap_secs, f"c{number}", tuple(self._turns(prompt, number, rng)))

    def _turns(self, prompt: Prompt, number: int, rng: random.Random) -> Iterator[Turn]:
        load = self._load
        for turn in range(6):
            content = (1 + number << 32) + 2 * turn
            prompt.add(content, rng.randint(*load.message_tokens))
            yield Turn(prompt.tokens, load.answer_tokens, prompt.blocks(), load.think_secs)
            prompt.add(content + 1, load.answer_tokens)


def mean_ttft_ms(load: ThreeInstances, policy: str, seed: int) -> float:
    setting = Setting(
        profile=load_profile(load.profile, kv_cache_tokens=load.kv_cache_tokens, block_size=BLOCK_TOKENS),
        workers=3,
        share_device=True,
        seed=seed,
        # Each instance had eight of the conversations.
        parameters=PolicyParameters(manual=ManualSettings(assignment_mode="min_group")),
    )
    run = Simulation(load=Conversations(load, seed), setting=setting, contender=CONTENDERS[policy]).run()
    return float(run.requests.floats("ttft").mean()) * 1e3


@pytest.mark.parametrize("name", THREE_INSTANCES)
def test_policies_come_in_the_order_in_which_they_were_measured(name: str) -> None:
    load = THREE_INSTANCES[name]
    modelled = {policy: mean(mean_ttft_ms(load, policy, seed) for seed in SEEDS) for policy in load.ttft_ms}
    pairs = list(combinations(sorted(load.ttft_ms, key=load.ttft_ms.__getitem__), 2))
    told_apart = [(one, other) for one, other in pairs if load.ttft_ms[other] > CLEARLY * load.ttft_ms[one]]
    assert len(told_apart) >= 5
    for better, worse in told_apart:
        assert modelled[better] < modelled[worse], (better, worse, modelled)
    for policy, measured in load.ttft_ms.items():
        assert modelled[policy] == pytest.approx(measured, rel=0.35), (policy, modelled)
