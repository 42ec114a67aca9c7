"""An HTTP worker that says who it is, for tests of Envoy's configuration.

Answers every request with its own address and the size of the body. ``status`` changes the status; while ``gate`` is
not set, answers are withheld.
"""

import asyncio
import socket
from types import TracebackType
from typing import Self

from aiohttp import web


class EchoWorker:
    """One HTTP/1.1 server on a port of its own."""

    def __init__(self) -> None:
        self.status = 200
        self.gate = asyncio.Event()
        self.gate.set()
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
        await web.SockSite(self._runner, listening).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Close the port and every connection."""
        self.gate.set()
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        self.requests += 1
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        body = await request.read()
        self.arrived.set()
        await self.gate.wait()
        return web.json_response({"worker": self.address, "bytes": len(body)}, status=self.status)
