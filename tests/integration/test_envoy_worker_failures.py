"""What the real Envoy does, with our configuration alone, when workers fail under load: nobody loses a request.

The processors here know nothing of failures and go on listing every worker, the dead ones too: what a real router does
until the observer has noticed.
"""

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from extproc.dataplane.extensions import ATTEMPT_TIMEOUT
from extproc.fleet.worker import Worker
from extproc.telemetry.tasks import spawn
from tests.support import waiting
from tests.support.echo_worker import EchoWorker
from tests.support.envoy_stage import Stage, settings_for, stage, until
from tests.support.load import Load, LoadResult, post
from tests.support.simulated_worker import SimulatedWorker

CLIENTS = 16
BEFORE = 50
AFTER = 200
LISTED = 3
PROMPT = json.dumps({"model": "tiny", "prompt": "a", "max_tokens": 1}).encode()
REQUEST = post("/v1/completions", PROMPT)


def address_of(running: Stage) -> str:
    return f"127.0.0.1:{running.envoy.listen}"


def take_turns(running: Stage, addresses: list[str]) -> None:
    """Have the processors list ``LISTED`` of the workers, each time beginning with the next."""
    count = len(addresses)
    starts = itertools.cycle(range(count))

    def choose() -> str:
        start = next(starts)
        return ",".join(addresses[(start + place) % count] for place in range(min(LISTED, count)))

    running.decide(choose)


async def under_load(running: Stage, event: Callable[[], Awaitable[None]]) -> LoadResult:
    """Send requests on ``CLIENTS`` connections until ``AFTER`` have been answered since the event."""
    load = Load(address_of(running), REQUEST, clients=CLIENTS)

    async def answered(total: int) -> None:
        async def enough() -> bool:
            return load.result.total >= total

        await waiting.until(enough)

    task = spawn(load.run(), name="load")
    try:
        await answered(BEFORE)
        await event()
        await answered(load.result.total + AFTER)
    finally:
        load.stop()
        result = await task
    return result


async def test_a_killed_worker_fails_nobody(tmp_path: Path) -> None:
    async with stage(settings_for(tmp_path), workers=3) as running:
        take_turns(running, [one.address for one in running.workers])
        for worker in running.workers:
            worker.delay_secs = 0.01
        result = await under_load(running, running.workers[0].kill)
        assert result.failed == {}
        assert result.broken_off == 0


async def test_half_of_the_fleet_dying_at_once_fails_nobody(tmp_path: Path) -> None:
    """The list of every request holds dead workers only, and the first that Envoy then finds may be dead too."""
    async with stage(settings_for(tmp_path), workers=8) as running:
        for worker in running.workers:
            worker.delay_secs = 0.01
        dying, living = running.workers[:4], running.workers[4:]
        running.decide(",".join(one.address for one in dying[:LISTED]))

        async def die() -> None:
            await asyncio.gather(*(one.kill() for one in dying))

        result = await under_load(running, die)
        assert result.failed == {}
        assert result.broken_off == 0
        assert {one.address for one in living} <= result.workers.keys()


async def test_a_hung_worker_fails_nobody_and_serves_again_when_it_wakes(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        frozen = await asyncio.to_thread(SimulatedWorker.start)
        stack.push_async_callback(asyncio.to_thread, frozen.stop)
        stack.callback(frozen.resume)
        settings = settings_for(tmp_path, envoy__hung_after_secs=0.5)
        running = await stack.enter_async_context(stage(settings))
        addresses = [frozen.address, *(one.address for one in running.workers)]
        await publish(running, addresses)
        take_turns(running, addresses)

        async def freeze() -> None:
            frozen.pause()

        result = await under_load(running, freeze)
        assert result.failed == {}
        assert result.broken_off == 0
        frozen.resume()
        running.decide(frozen.address)
        result = await Load(address_of(running), REQUEST, clients=4, limit=20).run()
        assert (result.failed, result.workers) == ({}, {frozen.address: 20})
        await asyncio.to_thread(frozen.wait_for_requests, lambda shown: shown["in_flight"] == 0)


@pytest.mark.parametrize("status", [502, 503])
async def test_a_worker_that_takes_nothing_more_fails_nobody(status: int, tmp_path: Path) -> None:
    async with stage(settings_for(tmp_path), workers=3) as running:
        take_turns(running, [one.address for one in running.workers])
        failing, *others = running.workers

        async def fail() -> None:
            failing.status = status

        result = await under_load(running, fail)
        assert result.failed == {}
        assert result.workers.keys() >= {one.address for one in others}


async def test_a_worker_that_resets_connections_fails_nobody(tmp_path: Path) -> None:
    async with stage(settings_for(tmp_path), workers=3) as running:
        take_turns(running, [one.address for one in running.workers])
        resetting = running.workers[0]
        resetting.delay_secs = 0.01

        async def reset() -> None:
            for _ in range(5):
                before = resetting.requests

                async def busy(before: int = before) -> bool:
                    return resetting.requests > before

                await until(busy)
                resetting.reset()

        result = await under_load(running, reset)
        assert result.failed == {}
        assert result.broken_off == 0


async def test_a_fleet_that_doubles_fails_nobody_and_serves_at_once(tmp_path: Path) -> None:
    async with stage(settings_for(tmp_path)) as running, EchoWorker() as third, EchoWorker() as fourth:
        addresses = [one.address for one in running.workers]
        take_turns(running, addresses)

        async def double() -> None:
            more = [*addresses, third.address, fourth.address]
            take_turns(running, more)
            await publish(running, more)

        result = await under_load(running, double)
        assert result.failed == {}
        assert result.workers.keys() == {*addresses, third.address, fourth.address}


@pytest.mark.parametrize("status", [429, 500, 504])
async def test_what_may_be_the_requests_own_fault_is_not_tried_again(status: int, tmp_path: Path) -> None:
    async with stage(settings_for(tmp_path)) as running:
        failing, other = running.workers
        failing.status = status
        running.decide(f"{failing.address},{other.address}")
        assert (await running.post()).status == status
        assert other.requests == 0


async def test_a_router_may_say_when_an_attempt_is_given_up(tmp_path: Path) -> None:
    async with stage(settings_for(tmp_path)) as running:
        hung, serving = running.workers
        hung.gate.clear()
        running.decide(f"{hung.address},{serving.address}")
        for router in running.processors:
            router.set_headers = {ATTEMPT_TIMEOUT: "100"}
        answer = await running.post()
        assert (answer.status, answer.worker) == (200, serving.address)
        seen = [headers for worker in running.workers for headers in worker.headers]
        assert len(seen) == 2
        assert not any(ATTEMPT_TIMEOUT in headers for headers in seen), "it is for Envoy, not for workers"


async def test_an_answer_that_has_begun_may_take_as_long_as_it_likes(tmp_path: Path) -> None:
    """While it runs, a later request is given the same time to begin and is then sent elsewhere."""
    async with stage(settings_for(tmp_path, envoy__hung_after_secs=0.3)) as running:
        slow, hung = running.workers
        slow.body_gate.clear()
        hung.gate.clear()
        running.decide(slow.address)
        async with running.client.post(f"{running.envoy.url}/v1/completions", data=PROMPT) as answer:
            running.decide(f"{hung.address},{slow.address}")
            async with running.client.post(f"{running.envoy.url}/v1/completions", data=PROMPT) as later:
                slow.body_gate.set()
                assert (await later.json())["worker"] == slow.address
            assert (await answer.json())["worker"] == slow.address


async def test_a_request_whose_body_is_still_coming_is_sent_again_as_a_whole(tmp_path: Path) -> None:
    async with stage(settings_for(tmp_path)) as running:
        for router in running.processors:
            router.early = True
        failing, serving = running.workers
        running.decide(f"{failing.address},{serving.address}")
        reader, writer = await asyncio.open_connection("127.0.0.1", running.envoy.listen)
        request = post("/v1/completions", b"x" * 10_000)
        writer.write(request[:5_000])

        async def reached(worker: EchoWorker) -> bool:
            return worker.requests == 1

        await until(lambda: reached(failing))
        await failing.kill()
        await until(lambda: reached(serving))
        writer.write(request[5_000:])
        answer = await reader.readuntil(b"}")
        writer.close()
        await writer.wait_closed()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b'"bytes": 10000}')


async def ejected(running: Stage, worker: EchoWorker) -> bool:
    return bool((await running.envoy.clusters())["workers"][worker.address].get("failed_outlier_check"))


async def test_one_failure_takes_a_worker_out_of_envoys_own_balancing(tmp_path: Path) -> None:
    async with stage(settings_for(tmp_path), workers=3) as running:
        dead = running.workers[0]
        await dead.kill()
        running.decide(dead.address)
        assert (await running.post()).status == 200
        await until(lambda: ejected(running, dead))


async def test_a_worker_that_is_out_finishes_what_it_has(tmp_path: Path) -> None:
    """Here it is out for a request that was given up; neither what it streams nor what waits there is touched."""
    async with stage(settings_for(tmp_path)) as running:
        busy, other = running.workers
        running.decide(f"{busy.address},{other.address}")
        busy.body_gate.clear()
        url = f"{running.envoy.url}/v1/completions"
        async with running.client.post(url, data=PROMPT) as streaming, asyncio.TaskGroup() as group:
            busy.gate.clear()
            busy.arrived.clear()
            waiting = group.create_task(running.post())
            await busy.arrived.wait()
            for router in running.processors:
                router.set_headers = {ATTEMPT_TIMEOUT: "100"}
            assert (await running.post()).worker == other.address
            await until(lambda: ejected(running, busy))
            busy.gate.set()
            busy.body_gate.set()
            assert (await streaming.json())["worker"] == busy.address
        assert waiting.result().worker == busy.address


async def test_the_kernel_asks_whether_a_worker_that_is_silent_is_still_there(tmp_path: Path) -> None:
    async with stage(settings_for(tmp_path), workers=1) as running:
        (worker,) = running.workers
        worker.gate.clear()
        async with asyncio.TaskGroup() as group:
            request = group.create_task(running.post())
            await worker.arrived.wait()

            async def asks() -> bool:
                return KEEPALIVE in timers_of_connections_to(int(worker.address.rpartition(":")[2]))

            await until(asks)
            worker.gate.set()
        assert request.result().status == 200


KEEPALIVE = "02"
ESTABLISHED = "01"


def timers_of_connections_to(port: int) -> set[str]:
    """Kinds of the timers that run on this machine's connections to a port on loopback (``man 5 proc``)."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {row[5].split(":")[0] for row in rows if row[3] == ESTABLISHED and int(row[2].split(":")[1], 16) == port}


async def publish(running: Stage, addresses: list[str]) -> None:
    """Write the endpoint file and wait until Envoy knows these workers."""
    others = [Worker(id=one, address=one, slot=slot) for slot, one in enumerate(addresses)]
    running.endpoints.write(others)

    async def known() -> bool:
        return (await running.envoy.clusters())["workers"].keys() == set(addresses)

    await until(known)
