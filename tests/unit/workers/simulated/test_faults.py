"""Each misbehaviour, seen by a client of a real worker."""

import asyncio
import json
import socket
from collections.abc import Iterator

import aiohttp
import pytest

from tests.support.simulated_worker import SimulatedWorker

COMPLETION = b'{"model":"tiny","prompt":"hello there","max_tokens":2}'
PATH = "/v1/completions"


async def send(worker: SimulatedWorker, *, timeout: float = 60.0) -> int:  # noqa: ASYNC109 - the client's own
    limit = aiohttp.ClientTimeout(total=timeout)
    async with (
        aiohttp.ClientSession(timeout=limit) as session,
        session.post(f"{worker.url}{PATH}", data=COMPLETION) as response,
    ):
        await response.read()
        return response.status


async def until(worker: SimulatedWorker, field: str, count: int) -> None:
    await asyncio.to_thread(worker.wait_for_requests, lambda shown: bool(shown[field] == count))


@pytest.fixture
def own_worker() -> Iterator[SimulatedWorker]:
    """A worker for what outlives a request."""
    with SimulatedWorker.start("--ttft-secs", "0", "--token-secs", "0") as worker:
        yield worker


@pytest.mark.parametrize("status", [500, 503, 599])
def test_error_answers_the_given_status_and_leaves_health_alone(worker: SimulatedWorker, status: int) -> None:
    worker.behave(mode="error", error_status=status)

    answered, body = worker.call("POST", PATH, COMPLETION)

    assert (answered, json.loads(body)["error"]["code"]) == (status, status)
    assert worker.call("GET", "/v1/models")[0] == status
    assert worker.call("GET", "/health")[0] == 200


def test_fail_next_fails_that_many_and_then_serves(worker: SimulatedWorker) -> None:
    worker.behave(fail_next=2, error_status=503)

    assert [worker.call("POST", PATH, COMPLETION)[0] for _ in range(4)] == [503, 503, 200, 200]


def test_unhealthy_fails_health_and_serves(worker: SimulatedWorker) -> None:
    worker.behave(unhealthy=True)

    assert worker.call("GET", "/health")[0] == 503
    assert worker.call("POST", PATH, COMPLETION)[0] == 200


async def test_hang_holds_the_request_until_told_otherwise(worker: SimulatedWorker) -> None:
    worker.behave(mode="hang")
    async with asyncio.TaskGroup() as group:
        answer = group.create_task(send(worker))
        await until(worker, "in_flight", 1)
        assert worker.call("GET", "/health")[0] == 200
        assert not answer.done()
        worker.behave()

    assert answer.result() == 200


async def test_hanging_requests_can_be_made_to_fail(worker: SimulatedWorker) -> None:
    worker.behave(mode="hang")
    async with asyncio.TaskGroup() as group:
        answer = group.create_task(send(worker))
        await until(worker, "in_flight", 1)
        worker.behave(mode="error", error_status=503)

    assert answer.result() == 503


def test_reset_ends_the_connection_before_the_first_byte(worker: SimulatedWorker) -> None:
    worker.behave(mode="reset")
    with socket.create_connection((worker.host, worker.port), timeout=30) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: w\r\nContent-Length: 2\r\n\r\n{}")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)

    assert worker.requests()["reset"] == 1
    assert worker.log() == ""


def test_stalling_at_the_first_token_sends_headers_and_nothing_else(worker: SimulatedWorker) -> None:
    worker.behave(stall_after_tokens=0)
    body = b'{"prompt":"x","max_tokens":1,"stream":true}'
    with socket.create_connection((worker.host, worker.port), timeout=30) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: w\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(65536)
        assert head.endswith(b"\r\n\r\n")
        worker.behave()
        rest = b""
        while b"[DONE]" not in rest:
            rest += connection.recv(65536)

    assert b"HTTP/1.1 200" in head


async def test_a_whole_answer_stalls_too(worker: SimulatedWorker) -> None:
    worker.behave(stall_after_tokens=1)
    async with asyncio.TaskGroup() as group:
        answer = group.create_task(send(worker))
        await until(worker, "in_flight", 1)
        worker.behave()

    assert answer.result() == 200


def test_refuse_closes_the_listening_socket_and_a_signal_opens_it(own_worker: SimulatedWorker) -> None:
    own_worker.behave(mode="refuse")

    for path in (PATH, "/health", "/sim/behaviour"):
        with pytest.raises(ConnectionRefusedError):
            own_worker.call("GET", path)

    own_worker.normal()
    assert own_worker.call("POST", PATH, COMPLETION)[0] == 200


def test_refuse_ends_idle_connections(own_worker: SimulatedWorker) -> None:
    with socket.create_connection((own_worker.host, own_worker.port), timeout=30) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: w\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
        own_worker.behave(mode="refuse")
        assert connection.recv(1) == b""


async def test_refuse_lets_a_running_answer_finish(own_worker: SimulatedWorker) -> None:
    own_worker.behave(stall_after_tokens=1)
    async with asyncio.TaskGroup() as group:
        answer = group.create_task(send(own_worker))
        await until(own_worker, "in_flight", 1)
        own_worker.behave(mode="refuse")

    assert answer.result() == 200


def test_a_worker_can_start_refusing() -> None:
    with SimulatedWorker.start("--mode", "refuse") as worker:
        with pytest.raises(ConnectionRefusedError):
            worker.call("GET", "/health")
        worker.normal()
        assert worker.call("GET", "/health")[0] == 200


def test_a_worker_can_start_failing() -> None:
    with SimulatedWorker.start("--fail-next", "1", "--error-status", "502") as worker:
        assert [worker.call("POST", PATH, COMPLETION)[0] for _ in range(2)] == [502, 200]


def test_a_paused_worker_takes_connections_and_answers_when_resumed(own_worker: SimulatedWorker) -> None:
    own_worker.pause()
    with socket.create_connection((own_worker.host, own_worker.port), timeout=0.1) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: w\r\n\r\n")
        with pytest.raises(TimeoutError):
            connection.recv(1)
        own_worker.resume()
        connection.settimeout(30)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
