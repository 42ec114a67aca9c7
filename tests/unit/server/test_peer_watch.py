"""Peers that are gone or do nothing, with times short enough to wait for."""

import asyncio
import ssl
from dataclasses import replace

import pytest

from extproc.config.server import ServerSettings
from extproc.server.base import CloseReason
from extproc.telemetry.tasks import spawn
from tests.support.grpc_client import GrpcClient
from tests.support.raw_http2 import PREFACE, Flag, RawPeer, Type, data_frame, frame, headers_frame, raw_peer
from tests.support.servers import eventually, running

SHORT = ServerSettings(handshake_timeout_secs=0.1, keepalive_time_secs=0.1, keepalive_timeout_secs=0.15)


@pytest.mark.parametrize(
    "beginning", [b"", PREFACE[:10], PREFACE, PREFACE + frame(Type.SETTINGS)[:8]], ids=["0", "10", "preface", "almost"]
)
async def test_a_handshake_that_does_not_end_is_cut(beginning: bytes) -> None:
    async with running("native", settings=SHORT) as server, GrpcClient(server.address) as bystander:
        await bystander.echo(b"x")
        async with raw_peer(server.address, greet=False) as peer:
            peer.send(beginning)
            await peer.rest()
        assert server.closed == {CloseReason.HANDSHAKE_TIMEOUT: 1}
        assert await bystander.echo(b"x") == b"x"


async def test_a_handshake_byte_by_byte_is_cut_by_the_same_deadline() -> None:
    async with running("native", settings=SHORT) as server, raw_peer(server.address, greet=False) as peer:
        ended = spawn(peer.rest(), name="rest")
        for byte in PREFACE[:-1]:
            peer.send(bytes([byte]))
            await asyncio.wait([ended], timeout=0.02)
        await ended
        assert server.closed == {CloseReason.HANDSHAKE_TIMEOUT: 1}


async def test_a_tls_handshake_that_does_not_end_is_cut() -> None:
    async with running("native", settings=replace(SHORT, tls="self_signed")) as server:
        async with raw_peer(server.address, greet=False) as peer:
            assert await peer.rest() == []
        assert server.closed == {CloseReason.HANDSHAKE_TIMEOUT: 1}


async def test_a_silent_peer_is_asked_and_then_cut() -> None:
    async with running("native", settings=SHORT) as server, raw_peer(server.address) as peer:
        peer.send(headers_frame(1) + data_frame(1, b"hello"))
        kinds = [each.type for each in await peer.rest()]
        assert kinds.index(Type.PING) < kinds.index(Type.GOAWAY)
        assert server.closed == {CloseReason.KEEPALIVE_TIMEOUT: 1}
        await eventually(server.all_closed_once)


async def test_a_silent_peer_that_answers_stays() -> None:
    async with running("native", settings=SHORT) as server, raw_peer(server.address) as peer:
        for _ in range(4):
            ping = await peer.until(Type.PING)
            peer.send(frame(Type.PING, ping.payload, flags=Flag.ACK))
        assert await peer.is_served(1)
        assert not server.closed


async def test_a_peer_that_takes_nothing_is_cut() -> None:
    async with (
        running("native", settings=SHORT) as server,
        GrpcClient(server.address) as bystander,
        raw_peer(server.address, settings={4: (1 << 31) - 1}) as peer,
    ):
        await bystander.echo(b"x")
        peer.pause_reading()
        peer.send(frame(Type.WINDOW_UPDATE, ((1 << 31) - 65536).to_bytes(4, "big")) + headers_frame(1))
        for _ in range(2000):
            peer.send(data_frame(1, b"x" * 16_000))
        await eventually(lambda: bool(server.closed))
        assert server.closed == {CloseReason.NOT_READING: 1}
        assert await bystander.echo(b"x") == b"x"
        await eventually(server.all_closed_once)


async def test_a_stuck_grpcio_handshake_is_cut_too() -> None:
    async with running("grpcio", settings=SHORT) as server, raw_peer(server.address, greet=False) as peer:
        await peer.rest()


async def test_a_grpcio_peer_that_answers_no_ping_is_cut_too() -> None:
    settings = replace(SHORT, keepalive_time_secs=1.0)
    async with running("grpcio", settings=settings) as server, raw_peer(server.address) as peer:
        peer.send(headers_frame(1) + data_frame(1, b"hello"))
        await peer.rest()
        await eventually(server.all_closed_once)


def unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context


async def test_the_deadline_holds_for_tls_and_http2_together() -> None:
    async with running("native", settings=replace(SHORT, tls="self_signed")) as server:
        peer = await RawPeer.connect(server.address, tls=unverified())
        assert [each.type for each in await peer.rest()][:1] == [Type.SETTINGS]
        assert server.closed == {CloseReason.HANDSHAKE_TIMEOUT: 1}
        await peer.close()
