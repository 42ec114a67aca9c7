"""What both transports promise alike, asked with a real gRPC client."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from extproc.config.server import ServerSettings
from extproc.server.base import Listener
from extproc.telemetry.tasks import spawn
from tests.support.grpc_client import GrpcClient, status_of
from tests.support.servers import Running, eventually, running

SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
MIB = 1 << 20


@pytest.fixture(params=["native", "grpcio"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def server(transport: str) -> AsyncIterator[Running]:
    async with running(transport) as server:
        yield server


@pytest.fixture
async def client(server: Running) -> AsyncIterator[GrpcClient]:
    async with GrpcClient(server.address) as client:
        yield client


async def test_echoes_messages_in_order_on_one_stream(server: Running, client: GrpcClient) -> None:
    stream = client.process()
    for number in range(200):
        assert await stream.ask(b"message %d" % number) == b"message %d" % number
    await stream.half_close()
    assert await stream.receive() is None
    assert await stream.status() == (0, "")
    await eventually(server.all_closed_once)
    assert server.handlers[0].events == ["receive"] * 200 + ["half_close", "closed"]
    assert server.server.active_streams == 0


@pytest.mark.parametrize("size", [0, 1, 5, 16379, 16384, 16385, 100_000, 6 * MIB])
async def test_carries_messages_of_any_size(client: GrpcClient, size: int) -> None:
    message = bytes(range(256)) * (size // 256) + b"\0" * (size % 256)
    assert await client.echo(message) == message


async def test_sends_many_messages_before_any_reply_is_read(client: GrpcClient) -> None:
    stream = client.process()
    messages = [b"%d" % number * 100 for number in range(500)]
    for message in messages:
        await stream.send(message)
    await stream.half_close()
    assert [await stream.receive() for _ in messages] == messages
    assert await stream.receive() is None


async def test_serves_many_streams_of_one_connection_at_once(server: Running, client: GrpcClient) -> None:
    streams = [client.process() for _ in range(100)]
    for number, stream in enumerate(streams):
        assert await stream.ask(b"%d" % number) == b"%d" % number
    assert server.server.active_streams == 100
    for stream in streams:
        await stream.half_close()
    assert [await stream.status() for stream in streams] == [(0, "")] * 100
    await eventually(server.all_closed_once)


async def test_replies_may_be_sent_in_a_later_turn_of_the_loop(client: GrpcClient) -> None:
    assert await client.process().ask(b"later") == b"later"


async def test_a_handler_may_end_the_rpc_after_the_half_close(server: Running, client: GrpcClient) -> None:
    stream = client.process()
    await stream.ask(b"linger")
    await stream.half_close()
    handler = server.handlers[0]
    await eventually(lambda: "half_close" in handler.events)
    handler.responder.send(b"owed")
    handler.responder.finish()
    assert await stream.receive() == b"owed"
    assert await stream.status() == (0, "")


async def test_an_empty_rpc_is_half_closed_and_ended(server: Running, client: GrpcClient) -> None:
    stream = client.process()
    await stream.half_close()
    assert await stream.receive() is None
    await eventually(server.all_closed_once)
    assert server.handlers[0].events == ["half_close", "closed"]


@pytest.mark.parametrize("replies", [0, 1])
async def test_a_handler_ends_the_rpc_with_a_status_of_its_own(
    server: Running, client: GrpcClient, replies: int
) -> None:
    stream = client.process()
    for _ in range(replies):
        await stream.ask(b"hello")
    await stream.send("finish 3 nicht gültig: 100 %".encode())
    assert await stream.status() == (3, "nicht gültig: 100 %")
    await eventually(server.all_closed_once)
    assert "half_close" not in server.handlers[0].events


async def test_after_the_finish_nothing_but_the_end_reaches_the_handler(server: Running, client: GrpcClient) -> None:
    stream = client.process()
    await stream.send(b"finish 0 done")
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the client may know of the end
        for message in (b"more", b"raise"):
            await stream.send(message)
    code, _ = await stream.status()
    assert code in {0, 13}  # the client's own, if it was still sending
    await eventually(server.all_closed_once)
    assert server.handlers[0].events == ["receive", "closed"]


async def test_a_failing_handler_ends_its_rpc_only(
    server: Running, client: GrpcClient, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = client.process(), client.process()
    await good.ask(b"before")
    await bad.send(b"raise")
    code, detail = await bad.status()
    assert (code, detail) == (13, "internal error")
    assert await good.ask(b"after") == b"after"
    await good.half_close()
    assert await good.status() == (0, "")
    await eventually(server.all_closed_once)
    assert "as ordered" in caplog.text


async def test_a_cancelled_rpc_is_closed_without_a_half_close(server: Running, client: GrpcClient) -> None:
    stream = client.process()
    await stream.ask(b"hello")
    stream.cancel()
    await eventually(server.all_closed_once)
    assert server.handlers[0].events == ["receive", "closed"]
    assert await client.echo(b"still there") == b"still there"


async def test_a_lost_connection_closes_every_rpc_on_it(server: Running, client: GrpcClient) -> None:
    async with GrpcClient(server.address) as other:
        streams = [other.process() for _ in range(10)]
        for stream in streams:
            await stream.ask(b"hello")
    await eventually(lambda: server.server.active_streams == 0)
    assert server.all_closed_once()
    assert await client.echo(b"still there") == b"still there"


@pytest.mark.parametrize("path", ["/nobody/Knows", "/envoy.service.ext_proc.v3.ExternalProcessor/Other", "/x"])
async def test_an_unknown_path_is_unimplemented(client: GrpcClient, path: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.call(path)
    assert status_of(caught.value) == 12


async def test_a_message_over_the_limit_ends_its_stream_only(transport: str) -> None:
    async with (
        running(transport, settings=ServerSettings(max_message_bytes=4096)) as server,
        GrpcClient(server.address) as client,
    ):
        bystander = client.process()
        await bystander.ask(b"hello")
        assert await client.echo(b"x" * 4096) == b"x" * 4096
        stream = client.process()
        await stream.send(b"x" * 4097)
        code, _ = await stream.status()
        assert code == 8
        assert await bystander.ask(b"x" * 4096) == b"x" * 4096
        bystander.cancel()
        await eventually(server.all_closed_once)


async def test_streams_over_the_limit_wait_for_the_others(transport: str) -> None:
    async with (
        running(transport, settings=ServerSettings(max_streams_per_connection=3)) as server,
        GrpcClient(server.address) as client,
    ):
        streams = [client.process() for _ in range(3)]
        for stream in streams:
            await stream.ask(b"hello")
        waiting = spawn(client.echo(b"fourth"), name="fourth")
        assert await streams[0].ask(b"again") == b"again"
        assert server.server.active_streams == 3
        assert not waiting.done()
        await streams[0].half_close()
        assert await waiting == b"fourth"
        for stream in streams[1:]:
            stream.cancel()
        await eventually(server.all_closed_once)


class TestHealth:
    @pytest.mark.parametrize(
        "name", ["", "readiness", "inference-extension", "envoy.service.ext_proc.v3.ExternalProcessor"]
    )
    async def test_names_of_the_service_follow_readiness(self, server: Running, client: GrpcClient, name: str) -> None:
        assert await client.check(name) == SERVING
        server.health.set_ready(False)
        assert await client.check(name) == NOT_SERVING

    async def test_liveness_does_not_follow_readiness(self, server: Running, client: GrpcClient) -> None:
        server.health.set_ready(False)
        assert await client.check("liveness") == SERVING

    async def test_an_unknown_name_is_not_found(self, client: GrpcClient) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.check("nobody")
        assert status_of(caught.value) == 5

    async def test_a_watch_tells_the_status_and_every_change(self, server: Running, client: GrpcClient) -> None:
        watch = client.watch("readiness")
        assert await anext(watch) == SERVING
        server.health.set_ready(False)
        assert await anext(watch) == NOT_SERVING
        server.health.set_ready(True)
        assert await anext(watch) == SERVING
        await watch.aclose()

    async def test_a_watch_of_an_unknown_name_stays_open(self, server: Running, client: GrpcClient) -> None:
        watch = client.watch("nobody")
        assert await anext(watch) == SERVICE_UNKNOWN
        following = spawn(watch.asend(None), name="next status")
        server.health.set_ready(False)
        assert await client.check("readiness") == NOT_SERVING
        assert not following.done()
        following.cancel()
        await asyncio.wait([following])

    async def test_health_rpcs_are_no_active_streams(self, server: Running, client: GrpcClient) -> None:
        watch = client.watch("")
        await anext(watch)
        assert server.server.active_streams == 0
        await watch.aclose()


class TestDrain:
    async def test_serves_old_and_new_rpcs_until_none_is_left(self, server: Running, client: GrpcClient) -> None:
        stream = client.process()
        await stream.ask(b"before")
        server.health.set_ready(False)
        drained = spawn(server.server.drain(30), name="drain")
        assert await client.check("readiness") == NOT_SERVING
        assert await stream.ask(b"during") == b"during"
        assert await client.echo(b"new") == b"new"
        async with GrpcClient(server.address) as late:
            assert await late.echo(b"new connection") == b"new connection"
        assert not drained.done()
        await stream.half_close()
        assert await stream.status() == (0, "")
        await drained
        assert server.all_closed_once()
        assert server.server.active_streams == 0

    async def test_asks_handlers_to_end_when_time_is_up(self, server: Running, client: GrpcClient) -> None:
        stream = client.process()
        await stream.ask(b"hello")
        await server.server.drain(0.05)
        assert await stream.status() == (0, "")
        assert server.handlers[0].events == ["receive", "drain", "closed"]

    async def test_cuts_what_does_not_end(self, server: Running, client: GrpcClient) -> None:
        stream = client.process()
        await stream.ask(b"linger")
        await server.server.drain(0)
        code, _ = await stream.status()
        assert code != 0
        assert server.handlers[0].events == ["receive", "drain", "closed"]
        assert server.server.active_streams == 0

    async def test_ends_watches(self, server: Running, client: GrpcClient) -> None:
        watch = client.watch("readiness")
        assert await anext(watch) == SERVING
        server.health.set_ready(False)
        assert await anext(watch) == NOT_SERVING
        await server.server.drain(5)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(watch)
        assert status_of(caught.value) == 14

    async def test_nobody_listens_afterwards(self, server: Running) -> None:
        port = server.port
        await server.server.drain(0)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)


def files(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


class TestUnixEndpoint:
    async def test_serves_on_a_socket_file_and_removes_it(self, transport: str, tmp_path: Path) -> None:
        path = tmp_path / "router-0.sock"
        async with running(transport, listeners=[Listener(f"unix:{path}")]) as server:
            assert server.address == f"unix:{path}"
            async with GrpcClient(server.address) as client:
                assert await client.echo(b"hello") == b"hello"
        assert files(tmp_path) == []

    async def test_a_successor_takes_the_path_over_and_the_old_one_keeps_its_connections(
        self, transport: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "router-0.sock"
        listeners = [Listener(f"unix:{path}")]
        async with running(transport, listeners=listeners) as old, GrpcClient(old.address) as client:
            stream = client.process()
            await stream.ask(b"linger")
            async with running(transport, listeners=listeners) as new:
                async with GrpcClient(new.address) as other:
                    assert await other.echo(b"hello") == b"hello"
                assert [len(old.handlers), len(new.handlers)] == [1, 1]
                assert await stream.ask(b"still served") == b"still served"
                await old.server.drain(0)
                async with GrpcClient(new.address) as other:
                    assert await other.echo(b"path still there") == b"path still there"
            assert not path.exists()

    async def test_replaces_the_file_of_a_dead_predecessor(self, transport: str, tmp_path: Path) -> None:
        path = tmp_path / "router-0.sock"
        path.touch()
        listeners = [Listener(f"unix:{path}")]
        async with running(transport, listeners=listeners) as server, GrpcClient(server.address) as client:
            assert await client.echo(b"hello") == b"hello"


class TestTcpEndpoint:
    async def test_old_and_new_process_may_overlap_on_a_port(self, transport: str) -> None:
        async with running(transport) as old, running(transport, listeners=[Listener(old.address)]) as new:
            assert new.address == old.address
            await old.server.drain(0)
            async with GrpcClient(new.address) as client:
                assert await client.echo(b"hello") == b"hello"
            assert len(new.handlers) == 1

    async def test_an_address_of_another_machine_cannot_be_bound(self, transport: str) -> None:
        with pytest.raises(OSError, match=r"."):
            async with running(transport, listeners=[Listener("192.0.2.1:9")]):
                pass

    async def test_serves_several_listeners(self, transport: str, tmp_path: Path) -> None:
        listeners = [Listener(f"unix:{tmp_path}/r.sock"), Listener("127.0.0.1:0", shared=True), Listener("[::1]:0")]
        async with running(transport, listeners=listeners) as server:
            assert len(server.server.addresses) == 3
            for address in server.server.addresses:
                async with GrpcClient(str(address)) as client:
                    assert await client.echo(b"hello") == b"hello"
