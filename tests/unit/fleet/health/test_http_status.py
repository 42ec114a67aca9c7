import socket

import pytest

from extproc.fleet.health.http_status import fetch_status
from extproc.fleet.worker_http import MAX_STATUS_LINE_BYTES
from tests.support.workers_http import answering


async def fetch(port: int) -> int:
    return await fetch_status(host="127.0.0.1", port=port, path="/health")


@pytest.mark.parametrize(
    ("pieces", "status"),
    [
        ((b"HTTP/1.1 200 OK\r\n\r\n",), 200),
        ((b"HTTP/1.0 503 Service Unavailable\r\n\r\n",), 503),
        ((b"HTTP/1.1 204\r\n\r\n",), 204),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n", b"x" * 100_000), 200),
        (tuple(bytes([byte]) for byte in b"HTTP/1.1 404 Not Found\r\n"), 404),
    ],
)
async def test_returns_the_status_and_leaves(pieces: tuple[bytes, ...], status: int) -> None:
    async with answering(*pieces) as server:
        assert await fetch(server.port) == status


async def test_sends_a_whole_request() -> None:
    async with answering(b"HTTP/1.1 200 OK\r\n\r\n") as server:
        await fetch(server.port)
    lines = server.request.decode().split("\r\n")
    assert lines[0] == "GET /health HTTP/1.1"
    assert f"Host: 127.0.0.1:{server.port}" in lines
    assert "Connection: close" in lines


@pytest.mark.parametrize(
    "piece",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 2000 OK\r\n",
        b"HTTP/1.1 OK\r\n",
        b"HTTP/2 200\r\n",
        b"x" * (MAX_STATUS_LINE_BYTES + 1),
    ],
)
async def test_what_is_not_http_is_a_value_error(piece: bytes) -> None:
    async with answering(piece) as server:
        with pytest.raises(ValueError, match="not HTTP"):
            await fetch(server.port)


@pytest.mark.parametrize("pieces", [(), (b"HTTP/1.1 20",)], ids=["silent", "in-the-line"])
async def test_a_connection_that_ends_early_is_an_os_error(pieces: tuple[bytes, ...]) -> None:
    async with answering(*pieces, closes=True) as server:
        with pytest.raises(OSError, match="ended"):
            await fetch(server.port)


async def test_nobody_listening_is_an_os_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        await fetch(port)


async def test_an_ipv6_address_is_written_in_brackets() -> None:
    async with answering(b"HTTP/1.1 200 OK\r\n\r\n", host="::1") as server:
        assert await fetch_status(host="::1", port=server.port, path="/") == 200
    assert f"Host: [::1]:{server.port}\r\n".encode() in server.request
