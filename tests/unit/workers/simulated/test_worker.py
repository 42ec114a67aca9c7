"""A worker's life as a process."""

import asyncio
import signal
import socket
import subprocess
import sys

import aiohttp
import pytest

from tests.support.processes import environment
from tests.support.simulated_worker import SimulatedWorker


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_with_status_0(stop: signal.Signals) -> None:
    with SimulatedWorker.start() as worker:
        worker.process.send_signal(stop)

        assert worker.process.wait(30) == 0
        assert worker.log() == ""


async def test_a_request_in_flight_is_finished_before_the_end() -> None:
    with SimulatedWorker.start("--drain-secs", "30") as worker:
        async with aiohttp.ClientSession(worker.url) as session, asyncio.TaskGroup() as group:
            slow = {"x-sim-ttft-secs": "0.5"}

            async def send() -> int:
                async with session.post("/v1/completions", json={"prompt": "x"}, headers=slow) as response:
                    return response.status

            answer = group.create_task(send())
            await asyncio.to_thread(worker.wait_for_requests, lambda shown: shown["in_flight"] == 1)
            worker.process.terminate()

        assert answer.result() == 200
        assert await asyncio.to_thread(worker.process.wait, 30) == 0


def test_a_request_that_never_ends_does_not_hold_it_up() -> None:
    with (
        SimulatedWorker.start("--mode", "hang", "--drain-secs", "0") as worker,
        socket.create_connection((worker.host, worker.port), timeout=30) as connection,
    ):
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: w\r\n\r\n")
        worker.wait_for_requests(lambda shown: shown["in_flight"] == 1)

        assert worker.stop() == 0
        assert connection.recv(1) == b""


def test_a_taken_port_is_said_and_ends_with_status_3() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, "-m", "workers.simulated", "--port", str(taken.getsockname()[1])]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment())

    assert ended.returncode == 3
    assert "Address already in use" in ended.stderr
    assert ended.stdout == ""


def test_a_killed_worker_is_gone_and_its_port_can_be_used_again() -> None:
    with SimulatedWorker.start() as worker:
        worker.kill()
        with pytest.raises(ConnectionRefusedError):
            worker.call("GET", "/health")
        with SimulatedWorker.start(port=worker.port) as successor:
            assert successor.address == worker.address


def test_an_idle_connection_is_closed_after_the_configured_time() -> None:
    with (
        SimulatedWorker.start("--keep-alive-secs", "0.1") as worker,
        socket.create_connection((worker.host, worker.port), timeout=30) as connection,
    ):
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: w\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
        assert connection.recv(1) == b""


def test_a_connection_is_kept_between_requests() -> None:
    with (
        SimulatedWorker.start() as worker,
        socket.create_connection((worker.host, worker.port), timeout=30) as connection,
    ):
        for _ in range(3):
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: w\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")


def test_the_packages_need_nothing_of_the_gateway() -> None:
    code = (
        "import sys, workers.simulated.worker; sys.exit(any(name.split('.')[0] == 'extproc' for name in sys.modules))"
    )

    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False, env=environment()).returncode == 0
