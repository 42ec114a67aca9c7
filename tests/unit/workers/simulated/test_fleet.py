"""Several workers in one process."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.processes import environment, wait_until
from tests.support.simulated_worker import SimulatedWorkers, WorkerCalls

PROFILE = "step:\n  base_secs: 0.005\n  prefill_token_secs: 0.00001\n"
PROMPT = json.dumps({"prompt": "x" * 4 * 40, "max_tokens": 1}).encode()


@pytest.fixture
def profile(tmp_path: Path) -> str:
    path = tmp_path / "profile.yaml"
    path.write_text(PROFILE)
    return str(path)


def value(worker: WorkerCalls, name: str) -> float:
    families = text_string_to_metric_families(worker.metrics())
    return next(sample.value for family in families for sample in family.samples if sample.name == f"vllm:{name}")


def test_eight_workers_have_everything_of_their_own(profile: str) -> None:
    with SimulatedWorkers.start("--profile", profile, "--name", "gpu-{n}", workers=8) as fleet:
        assert fleet.names == [f"gpu-{number}" for number in range(8)]
        assert len({worker.port for worker in fleet.workers}) == 8
        for number, worker in enumerate(fleet.workers):
            for asked in range(number + 1):
                answer = json.loads(worker.call("POST", "/v1/completions", PROMPT)[1])
                assert answer["system_fingerprint"] == f"gpu-{number}"
                assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == (32 if asked else 0)

        assert [value(worker, "prompt_tokens_total") for worker in fleet.workers] == [
            40 * (number + 1) for number in range(8)
        ]
        assert [worker.requests()["served"] for worker in fleet.workers] == list(range(1, 9))
        assert fleet.stop() == 0
        assert fleet.log() == ""


def test_scripted_workers_can_share_a_process_too() -> None:
    with SimulatedWorkers.start("--ttft-secs", "0", "--name", "w", workers=2) as fleet:
        assert fleet.names == ["w-0", "w-1"]
        fleet.workers[0].behave(mode="error")
        assert [worker.call("POST", "/v1/completions", PROMPT)[0] for worker in fleet.workers] == [500, 200]


def test_a_signal_ends_the_misbehaviour_of_all() -> None:
    with SimulatedWorkers.start("--unhealthy", workers=2) as fleet:
        assert not any(worker.healthy() for worker in fleet.workers)
        fleet.process.send_signal(signal.SIGUSR1)
        for worker in fleet.workers:
            worker.wait_healthy()


def test_a_taken_port_of_one_of_them_ends_all(profile: str) -> None:
    with SimulatedWorkers.start("--profile", profile, workers=1) as fleet:
        port = fleet.workers[0].port
        command = [sys.executable, "-m", "workers.simulated", "--port", str(port - 1), "--workers", "2"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment())

    assert (ended.returncode, ended.stdout) == (3, "")


async def test_requests_that_never_end_do_not_hold_up_the_end(profile: str, tmp_path: Path) -> None:
    flags = ("--profile", profile, "--drain-secs", "0", "--kv-events-endpoint", f"ipc://{tmp_path}/{{n}}")
    fleet = await asyncio.to_thread(SimulatedWorkers.start, *flags, workers=2)

    def running() -> list[float]:
        return [value(worker, "num_requests_running") for worker in fleet.workers]

    with fleet:
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
            for worker in fleet.workers:
                group.create_task(_cut_off(session, worker.url))
            await asyncio.to_thread(wait_until, lambda: running() == [1, 1], why="both run")
            assert await asyncio.to_thread(fleet.stop) == 0
        assert fleet.log() == ""


async def test_workers_that_share_a_device_slow_each_other_down(profile: str) -> None:
    fleet = await asyncio.to_thread(SimulatedWorkers.start, "--profile", profile, "--device-share", workers=2)
    with fleet:
        one, two = fleet.workers
        answer = json.dumps({"prompt": "x", "max_tokens": 41}).encode()
        assert (await asyncio.to_thread(two.call, "POST", "/v1/completions", answer))[0] == 200
        alone = value(two, "inter_token_latency_seconds_sum")
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
            busy = group.create_task(_forever(session, one.url))
            await asyncio.to_thread(wait_until, lambda: value(one, "num_requests_running") == 1, why="busy")
            assert (await asyncio.to_thread(two.call, "POST", "/v1/completions", answer))[0] == 200
            busy.cancel()

        assert alone == pytest.approx(40 * 0.005)
        assert value(two, "inter_token_latency_seconds_sum") - alone == pytest.approx(2 * alone)


async def _forever(session: aiohttp.ClientSession, url: str) -> None:
    async with session.post(f"{url}/v1/completions", json={"prompt": "y", "max_tokens": 100_000}) as response:
        await response.read()


async def _cut_off(session: aiohttp.ClientSession, url: str) -> None:
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await _forever(session, url)
