"""What a peer may do to a connection of the native transport, frame by frame, and that nobody else notices."""

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest

from extproc.config.server import ServerSettings
from extproc.server.base import CloseReason
from tests.support.grpc_client import GrpcClient
from tests.support.raw_http2 import (
    PREFACE,
    Flag,
    RawPeer,
    Type,
    data_frame,
    frame,
    grpc_message,
    headers_frame,
    literal,
    ping_frame,
    raw_peer,
    request_headers,
    reset_frame,
    settings_frame,
)
from tests.support.servers import Running, eventually, running

ENHANCE_YOUR_CALM = 11
KIB = 1 << 10


@pytest.fixture
def settings() -> ServerSettings:
    return ServerSettings(max_pings=20, max_idle_resets=30, max_message_bytes=64 * KIB)


@pytest.fixture
async def server(settings: ServerSettings) -> AsyncIterator[Running]:
    async with running("native", settings=settings) as server:
        yield server


@pytest.fixture
async def bystander(server: Running) -> AsyncIterator[GrpcClient]:
    """Another connection, with a stream open from before to after: the test fails when it notices anything."""
    async with GrpcClient(server.address) as client:
        stream = client.process()
        await stream.ask(b"before")
        yield client
        assert await stream.ask(b"after") == b"after"
        await stream.half_close()
        assert await stream.status() == (0, "")


@pytest.fixture
async def peer(server: Running) -> AsyncIterator[RawPeer]:
    async with raw_peer(server.address) as peer:
        yield peer


class TestBadPeers:
    @pytest.mark.parametrize(
        "garbage",
        [
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 3,
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100,
            b"\0" * 4000,
            PREFACE + b"\xff" * 100,
            PREFACE + ping_frame(),
        ],
        ids=["http1", "tls", "zeros", "after-preface", "no-settings"],
    )
    async def test_garbage_closes_the_connection(self, server: Running, bystander: GrpcClient, garbage: bytes) -> None:
        async with raw_peer(server.address, greet=False) as peer:
            peer.send(garbage)
            await peer.rest()
        assert server.closed == {CloseReason.GARBAGE: 1}
        assert await bystander.echo(b"x") == b"x"

    @pytest.mark.parametrize(
        ("frames", "code"),
        [
            (frame(Type.DATA, b"x" * 20_000, stream=1), 6),
            (frame(Type.PING, b"short"), 6),
            (frame(Type.DATA, b"x", stream=1), 1),
            (frame(Type.SETTINGS, b"\0\x04\xff\xff\xff\xff"), 3),
            (headers_frame(2), 1),
            (headers_frame(1, b"\xff\xff\xff\xff\xff"), 9),
            (headers_frame(1, flags=0) + ping_frame(), 1),
        ],
        ids=["oversized", "short-ping", "idle-stream", "window", "even-id", "hpack", "interrupted-headers"],
    )
    async def test_a_forbidden_frame_closes_the_connection(
        self, server: Running, bystander: GrpcClient, peer: RawPeer, frames: bytes, code: int
    ) -> None:
        peer.send(frames)
        goaway = await peer.until(Type.GOAWAY)
        assert goaway.error_code == code
        assert await peer.rest() == []
        assert server.closed == {CloseReason.PROTOCOL_ERROR: 1}

    async def test_a_fault_of_the_connection_closes_its_streams(self, server: Running, peer: RawPeer) -> None:
        peer.send(headers_frame(1) + data_frame(1, b"hello") + frame(Type.PING, b"short"))
        await peer.rest()
        await eventually(lambda: bool(server.handlers) and server.all_closed_once())
        assert server.handlers[0].events == ["receive", "closed"]

    async def test_header_lists_are_bounded(self, server: Running, bystander: GrpcClient, peer: RawPeer) -> None:
        block = request_headers(extra=b"".join(literal(f"x-{n}", "v" * 1000) for n in range(70)))
        peer.send(headers_frame(1, block[:16_000], flags=0))
        for start in range(16_000, len(block), 16_000):
            last = start + 16_000 >= len(block)
            part = block[start : start + 16_000]
            peer.send(frame(Type.CONTINUATION, part, flags=Flag.END_HEADERS if last else 0, stream=1))
        await peer.rest()
        assert server.closed == {CloseReason.RESOURCE_LIMIT: 1}

    async def test_endless_continuations_are_cut(self, server: Running, bystander: GrpcClient, peer: RawPeer) -> None:
        peer.send(headers_frame(1, request_headers(), flags=0))
        peer.send(frame(Type.CONTINUATION, b"", stream=1) * 1000)
        await peer.rest()
        assert server.closed == {CloseReason.RESOURCE_LIMIT: 1}


class TestFloods:
    @pytest.mark.parametrize("flood", [ping_frame(), settings_frame()], ids=["pings", "settings"])
    async def test_a_flood_of_control_frames_closes_the_connection(
        self, server: Running, bystander: GrpcClient, peer: RawPeer, flood: bytes
    ) -> None:
        peer.send(flood * 20)
        assert await peer.is_served(1)
        assert not server.closed
        peer.send(flood)
        assert (await peer.until(Type.GOAWAY)).error_code == ENHANCE_YOUR_CALM
        assert await peer.rest() == []
        assert server.closed == {CloseReason.PING_FLOOD: 1}

    async def test_a_flood_of_cancelled_streams_closes_the_connection(
        self, server: Running, bystander: GrpcClient, peer: RawPeer
    ) -> None:
        for number in range(30):
            peer.send(headers_frame(2 * number + 1) + reset_frame(2 * number + 1))
        assert await peer.is_served(61)
        assert not server.closed
        peer.send(headers_frame(63) + reset_frame(63))
        assert (await peer.until(Type.GOAWAY)).error_code == ENHANCE_YOUR_CALM
        assert server.closed == {CloseReason.RESET_FLOOD: 1}
        await eventually(lambda: server.server.active_streams == 1)
        assert all(handler.events == ["closed"] for handler in server.handlers if not handler.received)

    async def test_resets_of_streams_that_were_heard_are_no_flood(self, server: Running, peer: RawPeer) -> None:
        """Envoy ends every stream so; libnghttp2's own limit is 1,000."""
        for number in range(2000):
            stream = 2 * number + 1
            peer.send(headers_frame(stream) + data_frame(stream, b"hush") + reset_frame(stream))
        assert await peer.is_served(4001)
        assert not server.closed
        assert len(server.handlers) == 2001

    async def test_resets_of_streams_that_are_over_are_no_flood(self, server: Running, peer: RawPeer) -> None:
        for number in range(100):
            stream = 2 * number + 1
            peer.send(headers_frame(stream) + frame(Type.DATA, flags=Flag.END_STREAM, stream=stream))
            await peer.until(Type.HEADERS, stream=stream)
            peer.send(reset_frame(stream))
        assert await peer.is_served(201)
        assert not server.closed


class TestEndsInOneRead:
    """Envoy often sends the end of a stream and its reset together."""

    async def test_reset_right_after_the_last_message_is_harmless(self, server: Running, peer: RawPeer) -> None:
        peer.send(headers_frame(1) + data_frame(1, b"hello", end=True) + reset_frame(1))
        peer.send(headers_frame(3) + data_frame(3, b"later", end=True) + reset_frame(3))
        assert await peer.is_served(5)
        await eventually(server.all_closed_once)
        assert server.handlers[0].events == ["receive", "half_close", "closed"]
        assert not server.closed

    async def test_a_connection_cut_in_the_same_read_closes_its_streams(self, server: Running) -> None:
        async with raw_peer(server.address) as peer:
            peer.send(headers_frame(1) + data_frame(1, b"hello"))
            await peer.until(Type.DATA)
            peer.send(data_frame(1, b"hello") + frame(Type.GOAWAY, b"\0" * 8))
        await eventually(lambda: bool(server.handlers) and server.all_closed_once())
        assert not server.closed

    async def test_a_goaway_of_an_idle_peer_closes_the_connection_uncounted(
        self, server: Running, peer: RawPeer
    ) -> None:
        peer.send(frame(Type.GOAWAY, b"\0" * 8))
        await peer.rest()
        assert not server.closed


class TestOutput:
    async def test_replies_of_one_read_leave_with_one_header(self, peer: RawPeer) -> None:
        peer.send(headers_frame(1) + data_frame(1, b"one") + data_frame(1, b"two", end=True))
        frames = [await peer.next_frame() for _ in range(3)]
        kinds = [each.type for each in frames if each is not None]
        assert kinds == [Type.HEADERS, Type.DATA, Type.HEADERS]
        assert frames[1] is not None
        assert frames[1].payload == grpc_message(b"one") + grpc_message(b"two")

    async def test_an_early_finish_tells_the_peer_to_stop(self, server: Running, peer: RawPeer) -> None:
        peer.send(headers_frame(1) + data_frame(1, b"finish 3 enough"))
        trailers = await peer.until(Type.HEADERS, stream=1)
        assert trailers.flags & Flag.END_STREAM
        reset = await peer.until(Type.RST_STREAM, stream=1)
        assert reset.error_code == 0
        await eventually(server.all_closed_once)
        assert await peer.is_served(3)

    async def test_a_finish_waits_for_the_window_of_the_peer(self, server: Running) -> None:
        async with raw_peer(server.address, settings={4: 10}) as peer:
            peer.send(headers_frame(1) + data_frame(1, b"0123456789") + data_frame(1, b"finish 0 done"))
            await peer.until(Type.DATA, stream=1)
            assert await peer.is_served(3)
            assert server.handlers[0].events == ["receive", "receive"]
            peer.send(frame(Type.WINDOW_UPDATE, (100).to_bytes(4, "big"), stream=1))
            await peer.until(Type.HEADERS, stream=1)
            assert (await peer.until(Type.RST_STREAM, stream=1)).error_code == 0
            await eventually(server.all_closed_once)

    async def test_a_stream_whose_replies_are_not_taken_is_reset(self, server: Running, bystander: GrpcClient) -> None:
        async with raw_peer(server.address, settings={4: 0}) as peer:
            peer.send(headers_frame(1))
            for _ in range(10):
                peer.send(data_frame(1, b"x" * 8 * KIB))
            assert (await peer.until(Type.RST_STREAM, stream=1)).error_code == ENHANCE_YOUR_CALM
            await eventually(lambda: server.server.active_streams == 1)

    async def test_a_peer_that_reads_nothing_is_read_from_no_more(self, server: Running, bystander: GrpcClient) -> None:
        async with raw_peer(server.address, settings={4: (1 << 31) - 1}) as peer:
            peer.pause_reading()
            peer.send(frame(Type.WINDOW_UPDATE, ((1 << 31) - 65536).to_bytes(4, "big")) + headers_frame(1))
            message = data_frame(1, b"x" * 16_000)
            received = -1
            handler = None
            # It is stuck once nothing more of it is read although there is more to read.
            while handler is None or len(handler.received) != received:
                received = len(handler.received) if handler else -1
                peer.send(message * 500)
                assert await bystander.echo(b"x") == b"x"
                await asyncio.sleep(0.05)
                handler = next((each for each in server.handlers if b"x" * 16_000 in each.received), None)
            assert received * 16_000 < 100 << 20
        await eventually(lambda: server.server.active_streams == 1)


async def test_nothing_of_a_finished_stream_stays_in_memory(server: Running, peer: RawPeer) -> None:
    """The cycle between stream and handler is broken, so memory does not wait for the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        for number in range(50):
            assert await peer.is_served(2 * number + 1)
        await eventually(server.all_closed_once)
        server.handlers.clear()
        alive = [each for each in gc.get_objects() if type(each).__name__ in {"NativeStream", "ScriptedHandler"}]
        assert len(alive) <= 1  # the loop variable of the last read
    finally:
        gc.enable()
