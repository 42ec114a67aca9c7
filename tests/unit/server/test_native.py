"""The native server as a whole: rotation, the shared socket, how many may come."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from extproc.config.server import ServerSettings
from extproc.server.base import CloseReason, Listener
from extproc.server.native import NativeServer
from extproc.telemetry.tasks import spawn
from tests.support.grpc_client import GrpcClient
from tests.support.raw_http2 import Flag, Type, data_frame, frame, headers_frame, raw_peer
from tests.support.servers import Running, eventually, running

SHARED = [Listener("127.0.0.1:0", shared=True)]
LARGEST_STREAM_ID = (1 << 31) - 1


class Gate:
    """A load gate that is told its delay and remembers what it was told."""

    def __init__(self, delay_secs: float = 0.0) -> None:
        self.delay_secs = delay_secs
        self.asked = 0
        self.connections = 0
        self.opened = 0
        self.ended = 0

    def accept_delay_secs(self) -> float:
        self.asked += 1
        return self.delay_secs

    def connection_accepted(self) -> None:
        self.connections += 1

    def stream_opened(self) -> None:
        self.opened += 1

    def stream_closed(self) -> None:
        self.ended += 1


class TestRotation:
    async def test_a_load_over_many_rotations_loses_nothing(self) -> None:
        settings = ServerSettings(rotate_after_streams=7)
        async with (
            running("native", settings=settings, listeners=SHARED) as server,
            GrpcClient(server.address) as client,
        ):

            async def caller() -> None:
                for _ in range(50):
                    assert await client.echo(b"x" * 500) == b"x" * 500

            await asyncio.gather(*(caller() for _ in range(8)))
            assert len(server.handlers) == 400
            assert server.closed[CloseReason.ROTATED] > 10
            assert set(server.closed) == {CloseReason.ROTATED}

    async def test_tells_the_peer_twice_and_serves_what_came_between(self) -> None:
        settings = ServerSettings(rotate_after_streams=1)
        async with running("native", settings=settings, listeners=SHARED) as server, raw_peer(server.address) as peer:
            peer.send(headers_frame(1) + data_frame(1, b"one"))
            notice = await peer.until(Type.GOAWAY)
            assert int.from_bytes(notice.payload[:4], "big") == LARGEST_STREAM_ID
            ping = await peer.until(Type.PING)
            peer.send(headers_frame(3) + data_frame(3, b"two", end=True))
            peer.send(frame(Type.PING, ping.payload, flags=Flag.ACK))
            await peer.until(Type.DATA, stream=3)
            peer.send(data_frame(1, b"one again", end=True))
            final = await peer.until(Type.GOAWAY)
            assert int.from_bytes(final.payload[:4], "big") == 3
            assert await peer.rest() == []
            assert [handler.received for handler in server.handlers] == [[b"one", b"one again"], [b"two"]]
            assert server.closed == {CloseReason.ROTATED: 1}

    @pytest.mark.parametrize(("shared", "after"), [(False, 3), (True, 0)], ids=["own endpoint", "off"])
    async def test_happens_on_the_shared_endpoint_only_and_if_wanted(self, shared: bool, after: int) -> None:
        settings = ServerSettings(rotate_after_streams=after)
        listeners = [Listener("127.0.0.1:0", shared=shared)]
        async with (
            running("native", settings=settings, listeners=listeners) as server,
            GrpcClient(server.address) as client,
        ):
            for _ in range(20):
                await client.echo(b"x")
            assert not server.closed


@pytest.fixture
def shared_socket() -> Iterator[socket.socket]:
    """A listening socket as a supervisor makes it; each process has a descriptor of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def address_of(listening: socket.socket) -> str:
    return f"127.0.0.1:{listening.getsockname()[1]}"


class TestSharedSocket:
    async def test_the_least_loaded_process_accepts(self, shared_socket: socket.socket) -> None:
        idle, busy = Gate(), Gate(delay_secs=0.2)
        listeners = [Listener(address_of(shared_socket), shared=True)]
        async with (
            running("native", listeners=listeners, shared_socket=shared_socket.dup(), load=idle) as one,
            running("native", listeners=listeners, shared_socket=shared_socket.dup(), load=busy) as two,
        ):
            for _ in range(10):
                async with GrpcClient(one.address) as client:
                    assert await client.echo(b"hello") == b"hello"
            assert (len(one.handlers), len(two.handlers)) == (10, 0)
            await eventually(lambda: idle.ended == 10)
            assert (idle.connections, idle.opened) == (10, 10)
            assert (busy.connections, busy.opened, busy.ended) == (0, 0, 0)

    async def test_a_loaded_process_accepts_when_nobody_else_does(self, shared_socket: socket.socket) -> None:
        gate = Gate(delay_secs=0.02)
        listeners = [Listener(address_of(shared_socket), shared=True)]
        async with running("native", listeners=listeners, shared_socket=shared_socket.dup(), load=gate) as server:
            for _ in range(3):
                async with GrpcClient(server.address) as client:
                    assert await client.echo(b"hello") == b"hello"
            assert gate.connections == 3

    async def test_what_waits_when_one_process_stops_is_served_by_another(self, shared_socket: socket.socket) -> None:
        listeners = [Listener(address_of(shared_socket), shared=True)]
        gate = Gate(delay_secs=60)
        async with (
            running("native", listeners=listeners, shared_socket=shared_socket.dup(), load=gate) as stuck,
            GrpcClient(stuck.address) as client,
        ):
            stream = client.process()
            await eventually(lambda: gate.asked > 0)
            await stuck.server.drain(0)
            async with running("native", listeners=listeners, shared_socket=shared_socket.dup()) as other:
                assert await stream.ask(b"hello") == b"hello"
                assert len(other.handlers) == 1
                await stream.half_close()
                assert await stream.status() == (0, "")

    async def test_own_connections_do_not_count_as_shared_load(self) -> None:
        gate = Gate()
        async with running("native", load=gate) as server, GrpcClient(server.address) as client:
            await client.echo(b"hello")
            assert (gate.asked, gate.connections, gate.opened) == (0, 0, 0)

    async def test_streams_of_a_lost_connection_are_given_back(self) -> None:
        gate = Gate()
        async with running("native", listeners=SHARED, load=gate) as server:
            async with raw_peer(server.address) as peer:
                peer.send(headers_frame(1) + data_frame(1, b"hello"))
                await peer.until(Type.DATA)
            await eventually(lambda: (gate.opened, gate.ended) == (1, 1))


def connections(server: Running) -> int:
    assert isinstance(server.server, NativeServer)
    return len(server.server._traffic.connections)


class TestConnections:
    async def test_one_too_many_is_closed_at_once_and_the_next_is_welcome(self) -> None:
        async with running("native", settings=ServerSettings(max_connections=2)) as server:
            async with raw_peer(server.address) as one, raw_peer(server.address) as two:
                async with raw_peer(server.address, greet=False) as surplus:
                    assert await surplus.rest() == []
                assert server.closed == {CloseReason.TOO_MANY_CONNECTIONS: 1}
                assert await one.is_served(1)
                assert await two.is_served(1)
            await eventually(lambda: connections(server) == 0)
            async with raw_peer(server.address) as next_one:
                assert await next_one.is_served(1)

    async def test_connections_that_come_and_go_leave_nothing(self) -> None:
        async with running("native") as server:
            for _ in range(50):
                async with raw_peer(server.address, greet=False):
                    pass
            async with GrpcClient(server.address) as client:
                await client.echo(b"hello")
            await eventually(lambda: connections(server) <= 1)


class TestDrain:
    async def test_connections_are_told_twice_and_closed(self) -> None:
        async with running("native") as server, raw_peer(server.address) as peer:
            peer.send(headers_frame(1) + data_frame(1, b"hello"))
            await peer.until(Type.DATA)
            drained = spawn(server.server.drain(0), name="drain")
            notice = await peer.until(Type.GOAWAY)
            assert int.from_bytes(notice.payload[:4], "big") == LARGEST_STREAM_ID
            ping = await peer.until(Type.PING)
            peer.send(frame(Type.PING, ping.payload, flags=Flag.ACK))
            kinds = [each.type for each in await peer.rest()]
            assert kinds[-1] == Type.GOAWAY
            await drained
            assert server.closed == {CloseReason.DRAINED: 1}

    async def test_a_stream_opened_before_the_notice_was_read_is_asked_to_end_too(self) -> None:
        async with running("native") as server, raw_peer(server.address) as peer:
            drained = spawn(server.server.drain(0), name="drain")
            await peer.until(Type.GOAWAY)
            peer.send(headers_frame(1) + data_frame(1, b"late"))
            assert (await peer.until(Type.HEADERS, stream=1)).headers["grpc-status"] == "0"
            await drained
            assert server.handlers[0].events == ["drain", "closed"]

    async def test_a_peer_that_answers_nothing_is_cut(self) -> None:
        async with running("native") as server, raw_peer(server.address) as peer:
            await server.server.drain(0)
            await peer.rest()
            assert server.closed == {CloseReason.DRAINED: 1}

    async def test_may_be_called_again(self) -> None:
        async with running("native") as server:
            await server.server.drain(0)
            await server.server.drain(0)


def test_works_on_uvloop_as_well(tmp_path: Path) -> None:
    async def serve() -> None:
        listeners = [Listener(f"unix:{tmp_path}/r.sock"), Listener("127.0.0.1:0", shared=True)]
        async with running("native", listeners=listeners, load=Gate(0.001)) as server:
            for address in server.server.addresses:
                async with GrpcClient(str(address)) as client:
                    assert await client.echo(b"x" * 6_000_000) == b"x" * 6_000_000
        assert server.all_closed_once()
        async with running("native", settings=ServerSettings(tls="self_signed")) as server:
            async with raw_peer(server.address, greet=False) as peer:
                peer.send(b"no TLS" * 10)
                await peer.rest()
            await eventually(lambda: server.closed == {CloseReason.TLS_FAILED: 1})

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
