"""The driver under a clock that jumps: what the model says must not depend on how late the loop is."""

import asyncio
import random
from math import inf

import pytest

from tests.support.engine_runs import Bench, chained, small_profile
from workers.engine.engine import Engine
from workers.engine.events import CacheEvent
from workers.engine.frontend import Frontend
from workers.engine.profile import FrontendCosts
from workers.engine.request import Request
from workers.simulated.driver import Driver

COSTS = FrontendCosts(secs=0.005, free_tokens=10, token_secs=0.001, busy_secs=0.002)


class Stage:
    """A driver with a clock that the test sets, and the times that its requests were told."""

    def __init__(self) -> None:
        self.now = 0.0
        self.times: dict[str, list[float]] = {}
        self.batches: list[list[CacheEvent]] = []
        self.steps = 0
        self.engine = Engine(small_profile(), keep_events=True)
        self.driver = Driver(
            engine=self.engine,
            frontend=Frontend(COSTS),
            clock=lambda: self.now,
            on_events=self.batches.append,
            on_step=self._count,
        )

    def request(self, name: str, *, prompt_tokens: int, answer_tokens: int) -> Request:
        times: list[float] = []
        self.times[name] = times
        blocks = (prompt_tokens + answer_tokens) // self.engine.profile.block_size
        return Request(
            prompt_tokens=prompt_tokens,
            answer_tokens=answer_tokens,
            hashes=chained((), blocks, lora="", tail=len(self.times)),
            on_first=times.append,
            on_end=times.append,
        )

    def _count(self) -> None:
        self.steps += 1


def play(seed: int, *, late: bool) -> dict[str, list[float]]:
    """Requests of one seed; if ``late``, nothing runs between two arrivals but what the arrivals themselves cause."""
    rng = random.Random(seed)
    stage = Stage()
    for number in range(20):
        at = stage.now + rng.expovariate(30)
        while not late and stage.engine.due < at:
            stage.now = stage.engine.due
            stage.driver.catch_up()
        stage.now = at
        size = rng.choice([3, 30, 60])
        stage.driver.submit(stage.request(str(number), prompt_tokens=size, answer_tokens=rng.randint(1, 30)), at)
    stage.now = 1000.0
    stage.driver.catch_up()
    stage.driver.close()
    return stage.times


@pytest.mark.parametrize("seed", range(20))
async def test_times_do_not_depend_on_how_late_the_loop_is(seed: int) -> None:
    late, prompt = play(seed, late=True), play(seed, late=False)

    assert all(len(times) == 2 for times in late.values())
    assert late == prompt


async def test_a_request_passes_the_api_server_first() -> None:
    stage = Stage()
    stage.driver.submit(stage.request("one", prompt_tokens=20, answer_tokens=1), 0.0)
    stage.now = 0.014
    stage.driver.catch_up()
    assert stage.engine.unfinished == 0
    stage.now = 0.016
    stage.driver.catch_up()
    assert stage.engine.unfinished == 1

    stage.now = 1.0
    stage.driver.catch_up()
    alone = Bench(Engine(small_profile()))
    assert stage.times["one"][0] == pytest.approx(0.015 + alone.engine.profile.lone_ttft_secs(20, 0))
    stage.driver.close()


async def test_a_request_aborted_on_its_way_never_reaches_the_engine() -> None:
    stage = Stage()
    request = stage.request("one", prompt_tokens=20, answer_tokens=1)
    stage.driver.submit(request, 0.0)
    stage.driver.abort(request)
    stage.now = 1.0
    stage.driver.catch_up()
    stage.driver.abort(request)

    assert (stage.times["one"], stage.steps, request.over) == ([], 0, True)
    stage.driver.close()


async def test_events_leave_at_the_end_of_the_step_that_gave_out_the_blocks() -> None:
    stage = Stage()
    stage.driver.submit(stage.request("one", prompt_tokens=40, answer_tokens=1), 0.0)
    stage.now = 0.036
    stage.driver.catch_up()
    assert (stage.engine.unfinished, stage.batches) == (1, [])

    stage.now = stage.engine.due
    stage.driver.catch_up()
    assert [len(batch) for batch in stage.batches] == [1]
    stage.now = 1.0
    stage.driver.catch_up()
    assert [len(batch) for batch in stage.batches] == [1, 1]
    stage.driver.close()


async def test_the_loop_wakes_it_without_being_asked() -> None:
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    engine = Engine(small_profile())
    driver = Driver(
        engine=engine, frontend=Frontend(COSTS), clock=loop.time, on_events=lambda _: None, on_step=lambda: None
    )
    request = Request(prompt_tokens=40, answer_tokens=20, hashes=(), on_first=lambda _: None, on_end=done.set_result)
    started = loop.time()
    driver.submit(request, started)

    assert await done > started
    assert engine.due == inf
    driver.close()
