"""Half-valid conversations, made from seeds: whatever comes, every RPC is closed once and nobody else notices."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from extproc.config.server import ServerSettings
from extproc.server.base import CloseReason, Listener
from tests.support.grpc_client import GrpcClient
from tests.support.raw_http2 import (
    PREFACE,
    Flag,
    RawPeer,
    Type,
    data_frame,
    frame,
    headers_frame,
    ping_frame,
    reset_frame,
    settings_frame,
)
from tests.support.servers import eventually, running

CONNECTIONS = 120
INITIAL_WINDOW_SIZE = 4
BODIES = (b"x", b"x" * 6000, b"finish 3 x", b"finish 0 x", b"later", b"linger", b"hush")


class Conversation:
    """What one peer sends: mostly sensible frames, now and then nonsense, sometimes one bit wrong."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.next_stream = 1
        self.talking: list[int] = []

    def wire(self) -> bytes:
        frames = [PREFACE, settings_frame({INITIAL_WINDOW_SIZE: self.dice.choice((0, 10, 65535, 1 << 20))})]
        frames += [self.frame() for _ in range(self.dice.randrange(1, 25))]
        wire = bytearray(b"".join(frames))
        if self.dice.random() < 0.2:
            wire[self.dice.randrange(len(wire))] ^= 1 << self.dice.randrange(8)
        return bytes(wire)

    def frame(self) -> bytes:
        sensible: tuple[Callable[[], bytes], ...] = (self.open, self.talk, self.talk, self.talk, self.rest)
        return self.dice.choice((*sensible, self.nonsense) if self.dice.random() < 0.1 else sensible)()

    def open(self) -> bytes:
        stream, self.next_stream = self.next_stream, self.next_stream + 2
        if self.dice.random() < 0.1:
            return headers_frame(stream, flags=Flag.END_HEADERS | Flag.END_STREAM)
        self.talking.append(stream)
        return headers_frame(stream)

    def talk(self) -> bytes:
        if not self.talking:
            return self.open()
        stream = self.dice.choice(self.talking)
        end = self.dice.random() < 0.2
        if end:
            self.talking.remove(stream)
        return data_frame(stream, self.dice.choice(BODIES), end=end)

    def rest(self) -> bytes:
        increment = self.dice.randrange(1, 1 << 16).to_bytes(4, "big")
        if self.next_stream == 1:
            return self.open()
        return self.dice.choice(
            (
                self.cancel,
                ping_frame,
                lambda: frame(Type.WINDOW_UPDATE, increment, stream=self.next_stream - 2),
                lambda: settings_frame({INITIAL_WINDOW_SIZE: self.dice.randrange(1 << 16)}),
            )
        )()

    def cancel(self) -> bytes:
        return reset_frame(self.talking.pop()) if self.talking else ping_frame()

    def nonsense(self) -> bytes:
        payload = self.dice.randbytes(self.dice.randrange(20))
        stream = max(0, self.next_stream - self.dice.randrange(8))
        return frame(self.dice.randrange(20), payload, flags=self.dice.randrange(256), stream=stream)


@pytest.mark.parametrize("seed", range(4))
async def test_nothing_a_peer_sends_does_harm(seed: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dice = random.Random(seed)
    settings = ServerSettings(max_message_bytes=5000)
    listeners = [Listener(f"unix:{tmp_path}/r.sock")]
    async with (
        running("native", settings=settings, listeners=listeners) as server,
        GrpcClient(server.address) as bystander,
    ):
        stream = bystander.process()
        await stream.ask(b"before")
        for _ in range(CONNECTIONS):
            peer = await RawPeer.connect(server.address)
            wire = Conversation(dice).wire()
            while wire:
                piece = dice.choice((1, 7, 100, 5000, len(wire)))
                peer.send(wire[:piece])
                wire = wire[piece:]
                if dice.random() < 0.3:
                    await asyncio.sleep(0)
            if dice.random() < 0.5:
                await bystander.echo(b"x")
            await peer.close()
        assert await stream.ask(b"after") == b"after"
        await stream.half_close()
        await eventually(lambda: server.server.active_streams == 0)
        assert len(server.handlers) > CONNECTIONS
    assert server.all_closed_once()
    assert set(server.closed) <= {
        CloseReason.GARBAGE, CloseReason.PROTOCOL_ERROR, CloseReason.RESOURCE_LIMIT, CloseReason.DRAINED,
    }  # fmt: skip
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []
