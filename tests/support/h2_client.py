"""A one-request HTTP/2 client that can send trailers, break off half-way, and show an answer's chunks as they come."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Self

import ngh2

Headers = Sequence[tuple[str, str]]


class H2Client:
    """One connection with one request on it."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._h2 = ngh2.Connection(ngh2.Role.CLIENT)
        self._stream = 0
        self.status = 0
        self.headers: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        self._h2.initiate_connection({ngh2.Setting.INITIAL_WINDOW_SIZE: 1 << 24})
        await self._flush()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    async def request(self, method: str, path: str, headers: Headers = (), *, end_stream: bool = False) -> None:
        """Send a request's headers."""
        pseudo = [(":method", method), (":scheme", "http"), (":authority", "llm"), (":path", path)]
        fields = [(name.encode(), value.encode()) for name, value in [*pseudo, *headers]]
        self._stream = self._h2.send_request(fields, end_stream=end_stream)
        await self._flush()

    async def send(self, data: bytes, *, end_stream: bool = False) -> None:
        """Send part of the body."""
        self._h2.send_data(self._stream, data, end_stream=end_stream)
        await self._flush()

    async def send_trailers(self, trailers: Headers) -> None:
        """End the request with trailers."""
        self._h2.send_trailers(self._stream, [(name.encode(), value.encode()) for name, value in trailers])
        await self._flush()

    async def abort(self) -> None:
        """Break the request off."""
        self._h2.reset_stream(self._stream)
        await self._flush()

    async def answer(self) -> AsyncIterator[bytes]:
        """The answer's body, a piece at a time; raises ``ConnectionResetError`` when it breaks off."""
        while True:
            data = await self._reader.read(1 << 16)
            if not data:
                raise ConnectionResetError("the connection ended before the answer")
            self._h2.receive_data(data)
            for event in self._h2.events():
                match event:
                    case ngh2.ResponseReceived():
                        self.headers = {name.decode(): value.decode() for name, value in event.headers}
                        self.status = int(self.headers[":status"])
                        ended = event.end_stream
                    case ngh2.DataReceived():
                        yield event.data
                        ended = event.end_stream
                    case ngh2.TrailersReceived():
                        ended = True
                    case ngh2.StreamReset():
                        raise ConnectionResetError(f"stream reset with {event.error_code}")
                    case _:
                        continue
                if ended:
                    return
            await self._flush()

    async def read(self) -> bytes:
        """The whole body of the answer."""
        return b"".join([part async for part in self.answer()])

    async def _flush(self) -> None:
        self._writer.write(self._h2.data_to_send())
        await self._writer.drain()
