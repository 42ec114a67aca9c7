import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress

import pytest
import uvloop

from extproc.fleet.load.connection import WorkerConnection
from extproc.fleet.load.http_response import HttpResponse
from tests.support.workers_http import answering, until

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
HI = HttpResponse(200, b"hi", reusable=True)


class Server:
    """Runs one function for each connection, which it numbers from 1."""

    def __init__(self, serve: Callable[[int], Serve]) -> None:
        self.serve = serve
        self.opened = 0
        self.active = 0
        self.requests: list[bytes] = []
        self.port = 0

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        self.active += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await self.serve(self.opened)(reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        self.active -= 1

    async def take(self, reader: asyncio.StreamReader) -> None:
        self.requests.append(await reader.readuntil(b"\r\n\r\n"))


@asynccontextmanager
async def connected(serve: Callable[["Server", int], Serve]) -> AsyncIterator[tuple[Server, WorkerConnection]]:
    server = Server(lambda number: serve(server, number))
    async with await asyncio.start_server(server.accept, "127.0.0.1", 0) as listening:
        server.port = listening.sockets[0].getsockname()[1]
        connection = WorkerConnection(host="127.0.0.1", port=server.port, accept="text/plain", max_body_bytes=1000)
        try:
            yield server, connection
        finally:
            connection.close()
            await until(lambda: not server.active)


def patient(server: Server, _: int) -> Serve:
    """Answers for as long as it is asked."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await server.take(reader)
            writer.write(ANSWER)

    return serve


def closing_when_idle(server: Server, _: int) -> Serve:
    """Answers one request and closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.take(reader)
        writer.write(ANSWER)

    return serve


def closing_when_asked_again(server: Server, _: int) -> Serve:
    """Answers one request and closes on the next, as if it had just done so."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.take(reader)
        writer.write(ANSWER)
        await server.take(reader)

    return serve


def breaking_off(server: Server, _: int) -> Serve:
    """Answers one request, and the next with half an answer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.take(reader)
        writer.write(ANSWER)
        await server.take(reader)
        writer.write(ANSWER[:-1])

    return serve


def chattering(server: Server, _: int) -> Serve:
    """Says something that nobody asked for, after its answer has been read."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.take(reader)
        writer.write(ANSWER)
        while await reader.read(1):
            writer.write(b"HTTP/1.1 200 OK\r\n")

    return serve


def silent(server: Server, _: int) -> Serve:
    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await server.take(reader)
        await reader.read()

    return serve


def dead(_: Server, __: int) -> Serve:
    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")

    return serve


async def test_requests_share_a_connection() -> None:
    async with connected(patient) as (server, connection):
        assert [await connection.get("/metrics") for _ in range(3)] == [HI] * 3
        assert server.opened == 1
    request = f"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nAccept: text/plain\r\n\r\n"
    assert server.requests == [request.encode()] * 3


async def test_a_connection_that_was_closed_in_between_is_replaced() -> None:
    async with connected(closing_when_idle) as (server, connection):
        for count in range(1, 4):
            assert await connection.get("/") == HI
            await until(lambda: not server.active)
            assert server.opened == count


async def test_a_connection_that_is_closed_under_a_request_is_replaced_and_the_request_sent_again() -> None:
    async with connected(closing_when_asked_again) as (server, connection):
        assert [await connection.get("/") for _ in range(3)] == [HI] * 3
        assert server.opened == 3
        assert len(server.requests) == 5


async def test_a_fresh_connection_that_is_closed_under_a_request_is_an_os_error() -> None:
    async with connected(dead) as (server, connection):
        with pytest.raises(ConnectionError, match="ended before"):
            await connection.get("/")
        assert server.opened == 1


async def test_an_answer_that_breaks_off_is_an_os_error_also_on_a_kept_connection() -> None:
    async with connected(breaking_off) as (server, connection):
        assert await connection.get("/") == HI
        with pytest.raises(ConnectionError, match="ended before"):
            await connection.get("/")
        assert server.opened == 1
        assert await connection.get("/") == HI
        assert server.opened == 2


async def test_what_nobody_asked_for_is_no_answer() -> None:
    async with connected(chattering) as (server, connection):
        assert await connection.get("/") == HI
        channel = connection._channel
        assert channel is not None
        assert channel._transport is not None
        channel._transport.write(b"x")
        await until(lambda: channel.ended)
        assert await connection.get("/") == HI
        assert server.opened == 2


async def test_an_answer_to_the_end_of_the_connection_is_whole_only_then() -> None:
    async with answering(b"HTTP/1.1 200 OK\r\n\r\n", b"a", b"b", closes=True) as server:
        connection = WorkerConnection(host="127.0.0.1", port=server.port, accept="*/*", max_body_bytes=2)
        assert await connection.get("/") == HttpResponse(200, b"ab", reusable=False)


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n"])
async def test_what_is_not_http_or_too_large_is_a_value_error_and_ends_the_connection(answer: bytes) -> None:
    async with answering(answer) as server:
        connection = WorkerConnection(host="127.0.0.1", port=server.port, accept="*/*", max_body_bytes=1000)
        with pytest.raises(ValueError, match=r"not HTTP|larger than"):
            await connection.get("/")


async def test_nobody_listening_is_an_os_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        await WorkerConnection(host="127.0.0.1", port=port, accept="*/*", max_body_bytes=1).get("/")


async def test_a_request_that_is_given_up_ends_its_connection() -> None:
    async with connected(silent) as (server, connection):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await connection.get("/")
        await until(lambda: server.opened == 1 and not server.active)


@pytest.mark.parametrize(
    "case",
    [
        test_requests_share_a_connection,
        test_a_connection_that_was_closed_in_between_is_replaced,
        test_a_connection_that_is_closed_under_a_request_is_replaced_and_the_request_sent_again,
        test_an_answer_that_breaks_off_is_an_os_error_also_on_a_kept_connection,
        test_what_nobody_asked_for_is_no_answer,
        test_an_answer_to_the_end_of_the_connection_is_whole_only_then,
        test_nobody_listening_is_an_os_error,
        test_a_request_that_is_given_up_ends_its_connection,
    ],
)
def test_works_on_uvloop_as_well(case: Callable[[], Coroutine[None, None, None]]) -> None:
    """The observer runs on it."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(case())
