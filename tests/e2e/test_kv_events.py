"""The service knows what engines hold by their events, over the real Envoy, and says where it does not."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from tests.support.deployment import data_plane
from tests.support.envoy import EnvoyProcess
from tests.support.event_reader import EventReader
from tests.support.models import make_model
from tests.support.service import Service
from tests.support.simulated_worker import SimulatedWorker
from tests.support.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

MODEL = "qwen"
BLOCK = 16
PRECISE, APPROXIMATE = 2.0, 1.0
TURNS = 80
SAMPLES = "extproc_cached_tokens_samples_total"


class Stage(NamedTuple):
    """Workers ``w0``, ``w1`` ..., the service and an Envoy in front."""

    workers: list[SimulatedWorker]
    service: Service
    envoy: EnvoyProcess
    client: aiohttp.ClientSession

    async def complete(self, ids: list[int], *, tokens: int = 2, worker: int | None = None, **fields: Any) -> int:  # noqa: ANN401
        """Send a prompt, to one worker directly where it is named; return the cached tokens that are reported."""
        url = self.envoy.url if worker is None else self.workers[worker].url
        body = {"model": MODEL, "prompt": ids, "max_tokens": tokens, **fields}
        async with self.client.post(f"{url}/v1/completions", json=body) as response:
            answer = await response.json()
            assert response.status == 200, answer
        return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])

    async def trust(self, worker: int) -> float:
        return await self.service.metric("extproc_worker_cache_trust", worker=f"w{worker}")

    async def known(self, *levels: float) -> None:
        """Wait until the workers are known so well."""

        async def reached() -> bool:
            return [await self.trust(number) for number in range(len(levels))] == list(levels)

        await until(reached, deadline_secs=30)

    async def problem(self, worker: int, problem: str) -> None:
        """Wait until a worker has been reported for a problem."""

        async def reported() -> bool:
            name = "extproc_kv_event_problems_total"
            return await self.service.metric(name, worker=f"w{worker}", problem=problem) > 0

        await until(reported, deadline_secs=30)

    async def heard(self, *sources: tuple[int, EventReader]) -> None:
        """Wait until the service has heard all that some workers have announced."""
        for number, reader in sources:

            async def all_of_it(number: int = number, reader: EventReader = reader) -> bool:
                name = "extproc_kv_event_batches_total"
                return await self.service.metric(name, worker=f"w{number}", result="batches") >= len(reader.drain())

            await until(all_of_it, deadline_secs=30)

    async def samples(self) -> dict[str, float]:
        results = ("equal", "over", "under", "absent", "moved")
        counts = {result: await self.service.metric(SAMPLES, result=result) for result in results}
        return {result: count for result, count in counts.items() if count}


@asynccontextmanager
async def stage(
    directory: Path,
    *,
    flags: tuple[tuple[str, ...], ...],
    kv_events: dict[str, Any] | None = None,
    policy: str = "cache_aware",
    block_size: int = BLOCK,
) -> AsyncIterator[Stage]:
    """Start a worker with each of some sets of flags; ``{directory}`` in them is a place for sockets."""
    model = make_model(directory / MODEL, MODEL)
    async with AsyncExitStack() as stack:
        workers = []
        for more in flags:
            given = tuple(flag.replace("{directory}", str(directory)) for flag in more)
            flags_of_one = ("--profile", "h100-1b", "--block-size", str(BLOCK), "--model", MODEL, *given)
            worker = await asyncio.to_thread(SimulatedWorker.start, *flags_of_one)
            stack.push_async_callback(asyncio.to_thread, worker.stop)
            workers.append(worker)
        config = {
            "workers": [
                {"id": f"w{number}", "address": worker.address, "models": [MODEL]}
                for number, worker in enumerate(workers)
            ],
            "models": [{"name": MODEL, "source": str(model), "block_size": block_size}],
            "routing": {"policy": policy},
            "kv_events": {"sample_share": 1.0, **(kv_events or {})},
        }
        service = await stack.enter_async_context(Service(directory=directory, config=config))
        envoy = await stack.enter_async_context(data_plane(service))
        client = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)))
        yield Stage(workers, service, envoy, client)


def telling(name: str) -> tuple[str, ...]:
    """The flags of a worker that publishes events."""
    return (
        "--kv-events-endpoint", f"ipc://{{directory}}/{name}", "--kv-events-replay-endpoint",
        f"ipc://{{directory}}/{name}-replay", "--kv-events-topic", f"kv@{name}",
    )  # fmt: skip


def reader_of(directory: Path, name: str) -> EventReader:
    """Listen to a worker beside the service."""
    endpoint = f"ipc://{directory}/{name}"
    return EventReader({"endpoint": endpoint, "replay_endpoint": f"{endpoint}-replay", "topic": f"kv@{name}"})


def prompt(seed: object, tokens: int) -> list[int]:
    rng = random.Random(str(seed))
    return [rng.randrange(1000) for _ in range(tokens)]


async def test_predictions_are_what_engines_report_while_their_caches_overflow(tmp_path: Path) -> None:
    """Two small caches, prompts that others have sent too, and whole conversations: every prediction comes true."""
    small = ("--kv-cache-tokens", "4096")
    async with stage(tmp_path, flags=((*telling("a"), *small), (*telling("b"), *small))) as running:
        await running.known(PRECISE, PRECISE)
        with reader_of(tmp_path, "a") as first, reader_of(tmp_path, "b") as second:
            for number, reader in enumerate((first, second)):
                await running.complete(prompt(("first", number), 32), worker=number)
                await asyncio.to_thread(reader.wait_for_first)
            rng = random.Random(7)
            for number in range(TURNS):
                document = rng.randrange(12)
                ids = prompt(document, 400) + prompt((document, rng.randrange(3)), rng.choice([0, 5, 40, 100]))
                if number % 5 == 0:
                    await running.complete(ids, worker=rng.randrange(2))
                await running.heard((0, first), (1, second))
                await running.complete(ids, tokens=rng.choice([1, 20]))
        assert await running.samples() == {"equal": TURNS}
        assert await running.service.metric("extproc_cached_tokens_total", kind="reported") > 0
        assert await running.service.metric("extproc_kv_event_lag_seconds_count") > 0


async def test_an_engine_that_is_killed_is_followed_again_from_its_beginning(tmp_path: Path) -> None:
    async with stage(tmp_path, flags=(telling("a"),)) as running:
        await running.known(PRECISE)
        ids = prompt("long", 800)
        assert await running.complete(ids) == 0
        assert await running.complete(ids) == 784
        worker = running.workers[0]
        port = worker.port
        worker.kill()

        async def unhealthy() -> bool:
            return not (await running.service.workers())[0]["healthy"]

        await until(unhealthy, deadline_secs=30)
        flags = tuple(flag.replace("{directory}", str(tmp_path)) for flag in telling("a"))
        again = await asyncio.to_thread(
            SimulatedWorker.start,
            "--profile",
            "h100-1b",
            "--block-size",
            str(BLOCK),
            "--model",
            MODEL,
            *flags,
            port=port,
        )
        running.workers[0] = again
        try:

            async def healthy() -> bool:
                return bool((await running.service.workers())[0]["healthy"])

            await until(healthy, deadline_secs=30)
            await running.known(PRECISE)
            assert await running.complete(ids) == 0
            assert await running.complete(ids) == 784
            assert await running.samples() == {"equal": 4}
        finally:
            again.stop()


async def test_a_worker_that_tells_nothing_does_not_look_cold_beside_one_that_does(tmp_path: Path) -> None:
    async with stage(tmp_path, flags=(telling("a"), ()), policy="cache_aware") as running:
        await running.known(PRECISE, APPROXIMATE)
        prompts = [prompt(number, 600) for number in range(8)]
        for _ in range(2):
            for ids in prompts:
                await running.complete(ids)
        served = [await running.service.metric(SAMPLES, worker=f"w{number}") for number in range(2)]
        assert min(served) > 0
        assert (await running.samples())["equal"] == 16


async def test_a_worker_without_events_where_they_should_be_is_named_and_stays_in_use(tmp_path: Path) -> None:
    """The endpoint, or the topic, is wrong: nothing ever arrives, though the engine computes."""
    async with stage(
        tmp_path,
        flags=(telling("a"), ()),
        kv_events={
            "endpoint": f"ipc://{tmp_path}/nobody", "topic": "kv@nobody", "silent_after_secs": 0.5,
        },
    ) as running:  # fmt: skip
        seeds = iter(range(10_000))

        async def reported() -> bool:
            await running.complete(prompt(next(seeds), 600), worker=0)
            name = "extproc_kv_event_problems_total"
            return await running.service.metric(name, worker="w0", problem="silent") > 0

        await until(reported, deadline_secs=30)
        await running.known(APPROXIMATE, APPROXIMATE)
        ids = prompt("again", 600)
        await running.complete(ids)
        assert await running.complete(ids) == 592
        assert "silent" in running.service.log_tail()


async def test_blocks_that_do_not_fit_ours_are_named_and_the_worker_stays_in_use(tmp_path: Path) -> None:
    async with stage(tmp_path, flags=(telling("a"),), block_size=24) as running:
        ids = prompt("odd", 600)
        await running.complete(ids)
        await running.problem(0, "block_size")
        await running.known(APPROXIMATE)
        assert await running.complete(ids) == 592


async def test_adapters_and_salts_have_caches_of_their_own(tmp_path: Path) -> None:
    async with stage(tmp_path, flags=(telling("a"),)) as running:
        await running.known(PRECISE)
        ids = prompt("salted", 600)
        assert await running.complete(ids, cache_salt="one") == 0
        assert await running.complete(ids, cache_salt="two") == 0
        assert await running.complete(ids, cache_salt="one") == 592
        assert await running.complete(ids) == 0
        assert await running.samples() == {"equal": 4}


async def test_a_service_that_starts_anew_begins_with_what_it_knew(tmp_path: Path) -> None:
    """One engine's batches are older than its replay goes back, and the other tells nothing: the snapshot has both."""
    short = (*telling("a"), "--kv-events-buffer-steps", "4")
    async with stage(
        tmp_path, flags=(short, ()), kv_events={"snapshot_file": str(tmp_path / "snapshot")}, policy="cache_aware"
    ) as running:
        await running.known(PRECISE, APPROXIMATE)
        prompts = [prompt(number, 600) for number in range(12)]
        for ids in prompts:
            await running.complete(ids)
        before = [await running.service.metric(SAMPLES, worker=f"w{number}") for number in range(2)]
        assert min(before) > 0
        await running.service.stop()
        await running.service.start()
        await running.known(PRECISE, APPROXIMATE)

        async def answered() -> bool:
            async with running.client.get(f"{running.envoy.url}/health") as response:
                return response.status == 200

        await until(answered, deadline_secs=30)
        before_again = await running.samples()
        for ids in prompts:
            assert await running.complete(ids) == 592
        after = await running.samples()
        assert after.get("equal", 0) - before_again.get("equal", 0) == len(prompts)


async def test_an_observer_that_is_replaced_follows_again(tmp_path: Path) -> None:
    async with stage(tmp_path, flags=(telling("a"),)) as running:
        await running.known(PRECISE)
        ids = prompt("kept", 600)
        await running.complete(ids)
        (pid,) = await running.service.pids("observer")
        os.kill(pid, signal.SIGKILL)

        async def replaced() -> bool:
            try:
                return await running.service.pids("observer") not in ([pid], [])
            except OSError:
                return False

        await until(replaced, deadline_secs=30)
        await running.known(PRECISE)
        assert await running.complete(ids) == 592
        assert (await running.samples())["equal"] == 2
