"""One RPC over raw frames: how bytes become messages, and what ends it."""

from collections.abc import AsyncIterator

import pytest

from extproc.config.server import ServerSettings
from tests.support.raw_http2 import (
    Flag,
    RawPeer,
    Type,
    data_frame,
    frame,
    grpc_message,
    headers_frame,
    raw_peer,
)
from tests.support.servers import Running, eventually, running


@pytest.fixture
async def server() -> AsyncIterator[Running]:
    async with running("native", settings=ServerSettings(max_message_bytes=100_000)) as server:
        yield server


@pytest.fixture
async def peer(server: Running) -> AsyncIterator[RawPeer]:
    async with raw_peer(server.address) as peer:
        yield peer


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 1000])
async def test_messages_do_not_depend_on_frames(server: Running, peer: RawPeer, piece: int) -> None:
    sent = [b"", b"a", b"hello" * 10, b"", b"x" * 300]
    wire = b"".join(map(grpc_message, sent))
    peer.send(headers_frame(1))
    for start in range(0, len(wire), piece):
        peer.send(frame(Type.DATA, wire[start : start + piece], stream=1))
    peer.send(frame(Type.DATA, flags=Flag.END_STREAM, stream=1))
    await eventually(lambda: bool(server.handlers) and server.all_closed_once())
    assert server.handlers[0].received == sent
    assert server.handlers[0].events == ["receive"] * 5 + ["half_close", "closed"]


async def test_padding_and_trailers_of_the_request_are_understood(server: Running, peer: RawPeer) -> None:
    padded = bytes([3]) + grpc_message(b"hello") + b"\0\0\0"
    peer.send(headers_frame(1) + frame(Type.DATA, padded, flags=8, stream=1))
    peer.send(headers_frame(1, b"\x00\x01x\x01y", flags=Flag.END_HEADERS | Flag.END_STREAM))
    await eventually(lambda: bool(server.handlers) and server.all_closed_once())
    assert server.handlers[0].received == [b"hello"]
    assert server.handlers[0].events == ["receive", "half_close", "closed"]


async def test_an_end_in_the_middle_of_a_message_is_an_error(server: Running, peer: RawPeer) -> None:
    peer.send(headers_frame(1) + frame(Type.DATA, grpc_message(b"hello")[:-1], flags=Flag.END_STREAM, stream=1))
    answer = await peer.until(Type.HEADERS, stream=1)
    assert answer.headers["grpc-status"] == "13"
    await eventually(server.all_closed_once)
    assert server.handlers[0].events == ["closed"]


async def test_a_compressed_message_is_unimplemented_on_its_stream_only(server: Running, peer: RawPeer) -> None:
    peer.send(headers_frame(1) + frame(Type.DATA, grpc_message(b"hello", compressed=True), stream=1))
    assert (await peer.until(Type.HEADERS, stream=1)).headers["grpc-status"] == "12"
    assert await peer.is_served(3)
    await eventually(server.all_closed_once)


async def test_a_message_over_the_limit_is_refused_before_it_is_gathered(server: Running, peer: RawPeer) -> None:
    peer.send(headers_frame(1) + frame(Type.DATA, b"\0" + (100_001).to_bytes(4, "big"), stream=1))
    assert (await peer.until(Type.HEADERS, stream=1)).headers["grpc-status"] == "8"
    for _ in range(20):
        peer.send(frame(Type.DATA, b"x" * 10_000, stream=1))
    assert await peer.is_served(3)
    await eventually(server.all_closed_once)
    assert server.handlers[0].events == ["closed"]


async def test_a_request_without_a_body_is_half_closed(server: Running, peer: RawPeer) -> None:
    peer.send(headers_frame(1, flags=Flag.END_HEADERS | Flag.END_STREAM))
    answer = await peer.until(Type.HEADERS, stream=1)
    assert answer.flags & Flag.END_STREAM
    assert answer.headers["grpc-status"] == "0"
    await eventually(server.all_closed_once)
    assert server.handlers[0].events == ["half_close", "closed"]


async def test_the_content_type_stands_in_the_first_headers(peer: RawPeer) -> None:
    peer.send(headers_frame(1) + data_frame(1, b"hello"))
    answer = await peer.until(Type.HEADERS, stream=1)
    assert answer.headers == {":status": "200", "content-type": "application/grpc"}
    assert not answer.flags & Flag.END_STREAM


async def test_streams_that_together_hold_too_much_of_messages_are_ended_and_the_others_go_on() -> None:
    settings = ServerSettings(max_message_bytes=100_000, max_held_bytes=10_000)
    begun = grpc_message(b"x" * 20_000)[:6000]
    async with running("native", settings=settings) as server, raw_peer(server.address) as peer:
        peer.send(headers_frame(1) + frame(Type.DATA, begun, stream=1))
        peer.send(headers_frame(3) + frame(Type.DATA, begun, stream=3))
        answer = await peer.until(Type.HEADERS, stream=3)
        assert answer.headers["grpc-status"] == "8"
        await eventually(lambda: len(server.handlers) == 2 and "closed" in server.handlers[1].events)
        # What the ended stream held is free again: there is room for another beside the first.
        peer.send(headers_frame(5) + frame(Type.DATA, begun[:3000], stream=5))
        peer.send(headers_frame(7) + frame(Type.DATA, grpc_message(b"small"), stream=7))
        await eventually(lambda: len(server.handlers) == 4 and server.handlers[3].received == [b"small"])
        assert [handler.events for handler in server.handlers[::2]] == [[], []]
