"""Which request goes where, and what every answer carries, over a real server."""

import hashlib
import json
import socket

import aiohttp
import pytest

from tests.support.simulated_worker import SimulatedWorker

COMPLETION = b'{"model":"tiny","prompt":"hello there","max_tokens":2}'


def raw(worker: SimulatedWorker, request: bytes) -> bytes:
    """Everything the worker sends until it closes the connection."""
    with socket.create_connection((worker.host, worker.port), timeout=30) as connection:
        connection.sendall(request)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    return received


def test_models_are_listed(worker: SimulatedWorker) -> None:
    status, body = worker.call("GET", "/v1/models")

    assert status == 200
    assert [(card["id"], card["object"]) for card in json.loads(body)["data"]] == [
        ("tiny", "model"),
        ("alias", "model"),
    ]


async def test_answers_carry_the_worker_and_the_request_id(worker: SimulatedWorker) -> None:
    headers = {"X-Request-Id": "r-1"}
    async with aiohttp.ClientSession(worker.url, headers=headers) as session:
        for stream in (False, True):
            body = {"prompt": "hello", "max_tokens": 1, "stream": stream}
            async with session.post("/v1/completions", json=body) as response:
                assert (response.headers["x-worker"], response.headers["X-Request-Id"]) == ("w1", "r-1")
                assert b'"id":"cmpl-r-1"' in await response.read()
        async with session.get("/health") as response:
            assert (response.headers["x-worker"], response.headers["X-Request-Id"]) == ("w1", "r-1")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/models", 405),
        ("POST", "/health", 405),
        ("GET", "/nowhere", 404),
        ("POST", "/nowhere", 200),
        ("DELETE", "/echo", 200),
        ("GET", "/echo/deeper", 200),
    ],
)
def test_paths_answer_the_methods_they_know(worker: SimulatedWorker, method: str, path: str, status: int) -> None:
    assert worker.call(method, path)[0] == status


@pytest.mark.parametrize("size", [0, 1, 62_001, 6_000_000, 64 << 20])
def test_echo_tells_length_and_digest_of_what_arrived(worker: SimulatedWorker, size: int) -> None:
    body = bytes(size)
    status, answer = worker.call("POST", "/echo?x=1", body, headers={"x-gateway-destination-endpoint": "a,b"})
    echo = json.loads(answer)

    assert (status, echo["method"], echo["path"]) == (200, "POST", "/echo?x=1")
    assert (echo["body_bytes"], echo["body_sha256"]) == (size, hashlib.sha256(body).hexdigest())
    assert ["content-length", str(size)] in echo["headers"]
    assert ["x-gateway-destination-endpoint", "a,b"] in echo["headers"]


def test_a_chunked_body_and_its_encoding_arrive_unchanged(worker: SimulatedWorker) -> None:
    """A body marked as gzip that is none: it must not be unpacked on the way."""
    answer = raw(
        worker,
        b"POST /echo HTTP/1.1\r\nHost: w\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Encoding: gzip\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nx-trailer: 1\r\n\r\n",
    )
    echo = json.loads(answer.partition(b"\r\n\r\n")[2])

    assert (echo["body_bytes"], echo["body_sha256"]) == (5, hashlib.sha256(b"abcde").hexdigest())
    assert ["transfer-encoding", "chunked"] in echo["headers"]


def test_echo_can_end_in_a_trailer(worker: SimulatedWorker) -> None:
    answer = raw(worker, b"GET /echo HTTP/1.1\r\nHost: w\r\nConnection: close\r\nx-sim-trailer: x-sum=7\r\n\r\n")

    assert b"Transfer-Encoding: chunked\r\n" in answer
    assert answer.endswith(b"\r\n0\r\nx-sum: 7\r\n\r\n")
    assert answer.count(b"\r\n0\r\n") == 1


def test_long_headers_arrive(worker: SimulatedWorker) -> None:
    """Longer than the 8 KB at which many servers stop."""
    status, answer = worker.call("GET", "/echo", headers={"x-long": "v" * 40_000})

    assert status == 200
    assert ["x-long", "v" * 40_000] in json.loads(answer)["headers"]


def test_a_client_that_expects_100_continue_gets_it_before_the_answer(worker: SimulatedWorker) -> None:
    with socket.create_connection((worker.host, worker.port), timeout=30) as connection:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: w\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
        connection.sendall(head % len(COMPLETION))
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(COMPLETION)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_broken_transfer_encoding_is_answered_400(worker: SimulatedWorker) -> None:
    answer = raw(
        worker,
        b"POST /echo HTTP/1.1\r\nHost: w\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\nnot a size\r\n\r\n",
    )

    assert answer.split()[1] == b"400"


@pytest.mark.parametrize(
    ("framing", "part"),
    [(b"Content-Length: 100", b"abc"), (b"Transfer-Encoding: chunked", b"3\r\nabc\r\n")],
    ids=["counted", "chunked"],
)
def test_a_client_that_goes_while_it_sends_is_counted_as_aborted(
    worker: SimulatedWorker, framing: bytes, part: bytes
) -> None:
    with socket.create_connection((worker.host, worker.port), timeout=30) as connection:
        connection.sendall(b"POST /echo HTTP/1.1\r\nHost: w\r\n" + framing + b"\r\n\r\n" + part)
        worker.wait_for_requests(lambda shown: shown["in_flight"] == 1)

    worker.wait_for_requests(lambda shown: shown["in_flight"] == 0)
    assert (worker.requests()["aborted"], worker.requests()["served"]) == (1, 0)
    assert worker.log() == ""


def test_a_body_over_the_limit_is_answered_413_and_nobody_else_notices() -> None:
    with SimulatedWorker.start("--max-body-bytes", "1024") as worker:
        assert worker.call("POST", "/echo", bytes(1024))[0] == 200
        assert worker.call("POST", "/echo", bytes(1025))[0] == 413
        assert worker.requests()["by_status"] == {"200": 1, "413": 1}


def test_a_prompt_over_the_model_length_is_answered_400() -> None:
    with SimulatedWorker.start("--max-model-len", "10") as worker:
        status, body = worker.call("POST", "/v1/completions", b'{"prompt":"abcdefgh","max_tokens":9}')
        assert status == 400
        assert "maximum context length is 10 tokens" in json.loads(body)["error"]["message"]
        assert worker.call("POST", "/v1/completions", b'{"prompt":"abcdefgh","max_tokens":8}')[0] == 200


def test_the_worker_logs_nothing_in_normal_service(worker: SimulatedWorker) -> None:
    worker.call("POST", "/v1/completions", COMPLETION)
    worker.call("POST", "/v1/completions", b"{")

    assert worker.log() == ""
