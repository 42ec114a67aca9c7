"""Small HTTP servers that play a worker's health and metrics endpoints, well or badly."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from aiohttp import web


class FakeWorker:
    """Answers every path with ``status`` and ``text``; hangs while ``hanging``. Counts what it sees."""

    def __init__(self) -> None:
        self.status = 200
        self.text = "x" * 1000
        self.headers: dict[str, str] = {}
        self.answering = asyncio.Event()
        self.answering.set()
        self.paths: list[str] = []
        self.connections: set[object] = set()
        self.address = ""

    @property
    def hanging(self) -> bool:
        return not self.answering.is_set()

    @hanging.setter
    def hanging(self, hanging: bool) -> None:
        if hanging:
            self.answering.clear()
        else:
            self.answering.set()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.paths.append(request.path)
        self.connections.add(request.transport)
        await self.answering.wait()
        return web.Response(status=self.status, headers=self.headers, text=self.text)


@asynccontextmanager
async def serving(worker: FakeWorker, *, port: int = 0) -> AsyncIterator[FakeWorker]:
    """Listen on loopback while the block runs."""
    server = web.Server(worker.answer)
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    host, bound = runner.addresses[0][:2]
    worker.address = f"{host}:{bound}"
    try:
        yield worker
    finally:
        worker.hanging = False
        await runner.cleanup()


class RawServer:
    """Answers every connection with given pieces, one after the other, and keeps what it was asked last."""

    def __init__(self, *pieces: bytes, closes: bool) -> None:
        self.pieces = pieces
        self.closes = closes
        self.request = b""
        self.port = 0
        self.active = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.active += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            self.request = await reader.readuntil(b"\r\n\r\n")
            for piece in self.pieces:
                writer.write(piece)
                await writer.drain()
            if not self.closes:
                await reader.read()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        self.active -= 1


@asynccontextmanager
async def answering(*pieces: bytes, closes: bool = False, host: str = "127.0.0.1") -> AsyncIterator[RawServer]:
    """Serve bytes on loopback while the block runs; unless ``closes``, the client has to end the connection."""
    server = RawServer(*pieces, closes=closes)
    async with await asyncio.start_server(server.serve, host, 0) as listening:
        server.port = listening.sockets[0].getsockname()[1]
        yield server
        await until(lambda: not server.active)


async def until(condition: Callable[[], object], *, secs: float = 10.0) -> None:
    """Wait for a condition; fail when it does not come true."""
    async with asyncio.timeout(secs):
        while not condition():  # noqa: ASYNC110 - whatever the case waits for has no event of its own
            await asyncio.sleep(0.005)
