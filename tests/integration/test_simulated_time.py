"""A worker that follows the model in real time against the same model in virtual time: one trace, one worker.

The times are long on purpose, hundreds of milliseconds, so that what a busy machine adds does not decide.
"""

import asyncio
import json
import random
import time
from collections.abc import Iterator
from typing import NamedTuple

import aiohttp
import numpy as np
import pytest

from extproc.simulation.contenders import CONTENDERS
from extproc.simulation.loads.load import BLOCK_TOKENS, Session, Turn
from extproc.simulation.simulation import Setting, Simulation
from tests.support.simulated_worker import SimulatedWorker
from workers.engine.profile import load_profile

PROFILE = "h100-8b"
SECS = 20.0
PROMPTS = 8
"""Contents that prompts begin with, so that some of each is cached."""
AGREES = 0.10


class Arrival(NamedTuple):
    at: float
    prompt: list[int]
    answer_tokens: int


def arrivals() -> list[Arrival]:
    rng = random.Random(5)
    contents = [[rng.randrange(1, 1 << 30) for _ in range(12_000)] for _ in range(PROMPTS)]
    made, now = [], 0.0
    while (now := now + rng.expovariate(4.0)) < SECS:
        shared = rng.choice(contents)[: BLOCK_TOKENS * rng.randint(4, 23)]
        own = [rng.randrange(1, 1 << 30) for _ in range(rng.randint(500, 9_000))]
        made.append(Arrival(now, shared + own, rng.randint(10, 100)))
    return made


class Arrivals:
    """The same as a load: a hash stands for a beginning of a prompt."""

    name = "arrivals"

    def __init__(self, made: list[Arrival]) -> None:
        self._made = made
        self.requests = len(made)
        self.secs = SECS

    def sessions(self) -> Iterator[Session]:
        for number, arrival in enumerate(self._made):
            ends = range(BLOCK_TOKENS, len(arrival.prompt) + BLOCK_TOKENS, BLOCK_TOKENS)
            hashes = [hash(tuple(arrival.prompt[:end])) & (1 << 64) - 1 for end in ends]
            turn = Turn(len(arrival.prompt), arrival.answer_tokens, np.array(hashes, np.uint64), 0.0)
            yield Session(arrival.at, str(number), (turn,))


async def first_token_secs(url: str, made: list[Arrival]) -> tuple[list[float], int]:
    started = time.perf_counter()

    async def ask(session: aiohttp.ClientSession, arrival: Arrival) -> tuple[float, int]:
        body = json.dumps(
            {
                "model": "tiny",
                "prompt": arrival.prompt,
                "max_tokens": arrival.answer_tokens,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        ).encode()
        await asyncio.sleep(max(0.0, started + arrival.at - time.perf_counter()))
        sent_at = time.perf_counter()
        headers = {"content-type": "application/json", "x-sim-tokens": str(arrival.answer_tokens)}
        async with session.post(f"{url}/v1/completions", data=body, headers=headers) as response:
            assert response.status == 200
            await response.content.readany()
            secs = time.perf_counter() - sent_at
            rest = await response.read()
        usage = next(json.loads(line[6:]) for line in reversed(rest.splitlines()) if b'"usage":{' in line)["usage"]
        return secs, usage["prompt_tokens_details"]["cached_tokens"]

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        answers = await asyncio.gather(*(ask(session, arrival) for arrival in made))
    return [secs for secs, _ in answers], sum(cached for _, cached in answers)


@pytest.mark.timeout(120)
def test_first_tokens_come_when_the_simulation_says() -> None:
    made = arrivals()
    with SimulatedWorker.start("--profile", PROFILE, "--block-size", str(BLOCK_TOKENS)) as worker:
        real, real_cached = asyncio.run(first_token_secs(worker.url, made))
    setting = Setting(profile=load_profile(PROFILE, block_size=BLOCK_TOKENS), workers=1)
    run = Simulation(load=Arrivals(made), setting=setting, contender=CONTENDERS["passthrough"]).run()
    modelled = run.requests.floats("ttft")
    for percent in (50, 90):
        assert np.percentile(real, percent) == pytest.approx(np.percentile(modelled, percent), rel=AGREES)
    assert real_cached == pytest.approx(int(run.requests.integers("cached").sum()), rel=0.02)
    assert real_cached > 0.2 * sum(len(arrival.prompt) for arrival in made)
