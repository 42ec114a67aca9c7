"""An HTTP worker that says who it is, for tests of Envoy's configuration.

Answers every request with its own address and the size of the body, after ``delay_secs``. ``status`` changes the
status. While ``gate`` is not set, answers are withheld; while ``body_gate`` is not, what follows their headers.
"""

import asyncio
import json
import socket
from contextlib import suppress
from types import TracebackType
from typing import Self

from aiohttp import web


class EchoWorker:
    """One HTTP/1.1 server on a port of its own."""

    def __init__(self) -> None:
        self.status = 200
        self.delay_secs = 0.0
        self.gate = asyncio.Event()
        self.gate.set()
        self.body_gate = asyncio.Event()
        self.body_gate.set()
        self.arrived = asyncio.Event()
        self.requests = 0
        self.headers: list[dict[str, str]] = []
        self.address = ""
        application = web.Application(client_max_size=1 << 30)
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(application, access_log=None)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{listening.getsockname()[1]}"
        self._site = web.SockSite(self._runner, listening)
        await self._site.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Close the port and every connection."""
        self.gate.set()
        self.body_gate.set()
        await self._runner.cleanup()

    async def kill(self) -> None:
        """Close the port and reset every connection, as a process that crashes does."""
        await self._site.stop()
        self.reset()
        await self.stop()

    def reset(self) -> None:
        """Reset every connection; the port stays open."""
        assert self._runner.server is not None
        for connection in self._runner.server.connections:
            assert connection.transport is not None
            connection.transport.abort()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        body = await request.read()
        self.arrived.set()
        await asyncio.sleep(self.delay_secs)
        await self.gate.wait()
        answer = json.dumps({"worker": self.address, "bytes": len(body)}).encode()
        headers = {"content-type": "application/json", "x-worker": self.address}
        if self.body_gate.is_set():  # headers and body in one packet: a reset does not come between
            return web.Response(status=self.status, headers=headers, body=answer)
        response = web.StreamResponse(status=self.status, headers=headers)
        response.content_length = len(answer)
        with suppress(ConnectionResetError):  # whoever asked is gone
            await response.prepare(request)
            await self.body_gate.wait()
            await response.write(answer)
        return response
