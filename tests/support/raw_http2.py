"""A peer that speaks HTTP/2 frame by frame, so that it can also speak it wrongly."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Self

from hpack import Decoder

from extproc.server.methods import PROCESS

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Type(IntEnum):
    DATA = 0
    HEADERS = 1
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Flag(IntFlag):
    NONE = 0
    END_STREAM = 1
    ACK = 1
    END_HEADERS = 4


@dataclass(frozen=True)
class Frame:
    type: int
    flags: int
    stream: int
    payload: bytes
    headers: dict[str, str]
    """Of a HEADERS frame."""

    @property
    def is_ack(self) -> bool:
        return bool(self.flags & Flag.ACK)

    @property
    def error_code(self) -> int:
        """Of a RST_STREAM or GOAWAY frame."""
        start = 4 if self.type == Type.GOAWAY else 0
        return int.from_bytes(self.payload[start : start + 4], "big")


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def literal(name: str, value: str) -> bytes:
    """Return one field of a header block, neither indexed nor Huffman coded."""
    return b"\x00" + _string(name) + _string(value)


def request_headers(path: str = PROCESS, extra: bytes = b"") -> bytes:
    """Return the header block of a gRPC request."""
    fields = {
        ":method": "POST", ":scheme": "http", ":path": path, ":authority": "x",
        "content-type": "application/grpc", "te": "trailers",
    }  # fmt: skip
    return b"".join(literal(name, value) for name, value in fields.items()) + extra


def headers_frame(stream: int, block: bytes | None = None, *, flags: int = Flag.END_HEADERS) -> bytes:
    return frame(Type.HEADERS, request_headers() if block is None else block, flags=flags, stream=stream)


def grpc_message(message: bytes, *, compressed: bool = False) -> bytes:
    return bytes([compressed]) + len(message).to_bytes(4, "big") + message


def data_frame(stream: int, message: bytes, *, end: bool = False) -> bytes:
    """Return a DATA frame with one whole gRPC message."""
    return frame(Type.DATA, grpc_message(message), flags=Flag.END_STREAM if end else 0, stream=stream)


def ping_frame() -> bytes:
    return frame(Type.PING, b"12345678")


def reset_frame(stream: int, code: int = 8) -> bytes:
    return frame(Type.RST_STREAM, code.to_bytes(4, "big"), stream=stream)


def settings_frame(settings: dict[int, int] | None = None) -> bytes:
    pairs = (settings or {}).items()
    return frame(Type.SETTINGS, b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in pairs))


class RawPeer:
    """One connection of a client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._hpack = Decoder()
        self._writer = writer

    @classmethod
    async def connect(cls, address: str, *, tls: ssl.SSLContext | None = None) -> Self:
        if address.startswith("unix:"):
            return cls(*await asyncio.open_unix_connection(address.removeprefix("unix:")))
        host, _, port = address.rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port), ssl=tls))

    async def greet(self, settings: dict[int, int] | None = None) -> None:
        """Exchange the preface and the settings."""
        self.send(PREFACE + settings_frame(settings))
        while True:
            answer = await self.next_frame()
            assert answer is not None
            if answer.type == Type.SETTINGS and answer.is_ack:
                break
        self.send(frame(Type.SETTINGS, flags=Flag.ACK))

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    def pause_reading(self) -> None:
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]

    async def next_frame(self) -> Frame | None:
        """Return the next frame, or None when the server has closed."""
        try:
            head = await self._reader.readexactly(9)
            payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        kind = head[3]
        fields = self._hpack.decode(payload) if kind == Type.HEADERS else ()
        headers = {str(name): str(value) for name, value in fields}
        return Frame(kind, head[4], int.from_bytes(head[5:9], "big"), payload, headers)

    async def until(self, kind: int, *, stream: int | None = None) -> Frame:
        """Read up to a frame of this kind."""
        async with asyncio.timeout(10):
            while (answer := await self.next_frame()) is not None:
                if answer.type == kind and stream in (None, answer.stream):
                    return answer
        raise AssertionError("the server closed before")

    async def rest(self) -> list[Frame]:
        """Read until the server closes."""
        frames = []
        async with asyncio.timeout(10):
            while (answer := await self.next_frame()) is not None:
                frames.append(answer)
        return frames

    async def is_served(self, stream: int) -> bool:
        """Whether an echo works on this connection."""
        self.send(headers_frame(stream) + data_frame(stream, b"echo", end=True))
        return (await self.until(Type.DATA, stream=stream)).payload == grpc_message(b"echo")

    async def close(self) -> None:
        self._writer.transport.abort()


@asynccontextmanager
async def raw_peer(
    address: str, *, greet: bool = True, settings: dict[int, int] | None = None
) -> AsyncIterator[RawPeer]:
    peer = await RawPeer.connect(address)
    try:
        if greet:
            await peer.greet(settings)
        yield peer
    finally:
        await peer.close()


def _string(text: str) -> bytes:
    raw = text.encode()
    if len(raw) < 127:
        return bytes([len(raw)]) + raw
    prefix, rest = [127], len(raw) - 127
    while rest >= 128:
        prefix.append(rest % 128 + 128)
        rest //= 128
    return bytes([*prefix, rest]) + raw
