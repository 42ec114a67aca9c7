"""What is particular to the grpcio transport, and bad peers as far as its library deals with them."""

import socket
from collections.abc import AsyncIterator

import pytest

from extproc.config.server import ServerSettings
from extproc.server.base import Listener
from tests.support.grpc_client import GrpcClient
from tests.support.raw_http2 import PREFACE, Type, data_frame, frame, headers_frame, ping_frame, raw_peer
from tests.support.servers import Running, eventually, running

ENHANCE_YOUR_CALM = 11


@pytest.fixture
async def server() -> AsyncIterator[Running]:
    async with running("grpcio", settings=ServerSettings(max_pings=20, handshake_timeout_secs=0.3)) as server:
        yield server


@pytest.fixture
async def bystander(server: Running) -> AsyncIterator[GrpcClient]:
    """Another connection, with a stream open from before to after: the test fails when it notices anything."""
    async with GrpcClient(server.address) as client:
        stream = client.process()
        await stream.ask(b"before")
        yield client
        assert await stream.ask(b"after") == b"after"


async def test_an_inherited_socket_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, pytest.raises(ValueError, match="inherited"):
        async with running("grpcio", shared_socket=listening):
            pass


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 3, b"\0" * 4000, PREFACE + b"\xff" * 100],
    ids=["http1", "zeros", "after-preface"],
)
async def test_garbage_closes_the_connection(server: Running, bystander: GrpcClient, garbage: bytes) -> None:
    async with raw_peer(server.address, greet=False) as peer:
        peer.send(garbage)
        await peer.rest()
    assert await bystander.echo(b"x") == b"x"


async def test_a_forbidden_frame_closes_the_connection_and_its_streams(server: Running, bystander: GrpcClient) -> None:
    async with raw_peer(server.address) as peer:
        peer.send(headers_frame(1) + data_frame(1, b"hello") + frame(Type.PING, b"short"))
        await peer.rest()
    await eventually(lambda: server.server.active_streams == 1)


async def test_a_flood_of_pings_closes_the_connection(server: Running, bystander: GrpcClient) -> None:
    async with raw_peer(server.address) as peer:
        peer.send(ping_frame() * 500)
        assert (await peer.until(Type.GOAWAY)).error_code == ENHANCE_YOUR_CALM
        await peer.rest()


async def test_a_surplus_connection_is_not_served() -> None:
    async with (
        running("grpcio", settings=ServerSettings(max_connections=2)) as server,
        raw_peer(server.address) as one,
        raw_peer(server.address) as two,
    ):
        async with raw_peer(server.address, greet=False) as surplus:
            assert await surplus.rest() == []
        assert await one.is_served(1)
        assert await two.is_served(1)


async def test_shared_connections_are_retired_by_age_and_others_are_not() -> None:
    async with running("grpcio") as own, running("grpcio", listeners=[Listener("127.0.0.1:0", shared=True)]) as shared:
        ages = [dict(each.server._options()).get("grpc.max_connection_age_ms") for each in (own, shared)]  # type: ignore[attr-defined]
    assert ages == [None, 10_000]


async def test_a_peer_that_takes_nothing_is_read_from_no_more(server: Running, bystander: GrpcClient) -> None:
    async with raw_peer(server.address, settings={4: 0}) as peer:
        peer.send(headers_frame(1))
        for _ in range(500):
            peer.send(data_frame(1, b"hello"))
        await eventually(lambda: server.handlers[-1].received[:1] == [b"hello"])
        assert await bystander.echo(b"x") == b"x"
        stuck = next(each for each in server.handlers if each.received[:1] == [b"hello"])
        assert 1 <= len(stuck.received) < 200
    await eventually(lambda: server.server.active_streams == 1)
