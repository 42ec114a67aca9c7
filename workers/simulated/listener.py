"""The listening socket and the connections behind it: opened, refused, closed."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator

from aiohttp import web

BACKLOG = 4096
MAX_LINE_BYTES = 1 << 16
_SHUTDOWN_SECS = 0.1

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Listener:
    """Listens on one address, on and off.

    A second socket, bound but not listening, keeps the port while connections are refused: no other process is given it
    as its free port meanwhile.
    """

    def __init__(self, *, host: str, port: int, keep_alive_secs: float) -> None:
        self._host = host
        self._keep_alive_secs = keep_alive_secs
        self._reservation = _bound(host, port)
        self._busy: set[object] = set()
        self._http: web.Server | None = None
        self._listening: asyncio.Server | None = None
        self._change = asyncio.Lock()

    @property
    def port(self) -> int:
        """The port, also while connections are refused."""
        port: int = self._reservation.getsockname()[1]
        return port

    def serve(self, handler: Handler) -> None:
        """Give every request to ``handler``; to be called once, before ``open``."""

        async def marked(request: web.BaseRequest) -> web.StreamResponse:
            with self._mark_busy(request.protocol):
                return await handler(request)

        # A handler is cancelled when its client goes, and a body keeps the encoding that it came in.
        self._http = web.Server(
            marked,
            handler_cancellation=True,
            keepalive_timeout=self._keep_alive_secs,
            access_log=None,
            # It would write what it could not parse, which may be part of a prompt.
            logger=logging.Logger("aiohttp", logging.CRITICAL),  # noqa: LOG001 - a registered one is shared state
            auto_decompress=False,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
        )

    async def open(self) -> None:
        """Take connections. Raises ``OSError`` when the address cannot be had."""
        assert self._http is not None
        async with self._change:
            if self._listening is None:
                self._listening = await asyncio.get_running_loop().create_server(
                    self._http, sock=_bound(self._host, self.port), backlog=BACKLOG
                )

    async def refuse(self) -> None:
        """Refuse connections from the moment this returns; idle ones end, busy ones end after their answer."""
        assert self._http is not None
        async with self._change:
            if self._listening is None:
                return
            self._listening.close()
            self._listening = None
            for connection in self._http.connections:
                if connection in self._busy:
                    connection.close()
                else:
                    connection.force_close()

    async def close(self) -> None:
        """Refuse connections and end every request."""
        await self.refuse()
        assert self._http is not None
        await self._http.shutdown(_SHUTDOWN_SECS)
        self._reservation.close()

    @contextlib.contextmanager
    def _mark_busy(self, connection: object) -> Iterator[None]:
        self._busy.add(connection)
        try:
            yield
        finally:
            self._busy.discard(connection)


def _bound(host: str, port: int) -> socket.socket:
    """A socket bound to the address. Raises ``OSError``."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound
