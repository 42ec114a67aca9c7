"""One connection to a worker, kept from one request to the next."""

import asyncio
from typing import cast

from extproc.fleet.load.http_response import HttpResponse, ResponseReader
from extproc.fleet.worker_http import get_request


class WorkerConnection:
    """Sends ``GET`` requests one after the other, over one connection for as long as the worker keeps it.

    :meth:`close` ends it.
    """

    def __init__(self, *, host: str, port: int, accept: str, max_body_bytes: int) -> None:
        self._host = host
        self._port = port
        self._accept = accept
        self._max_body_bytes = max_body_bytes
        self._channel: _Channel | None = None

    def close(self) -> None:
        """End the connection; another request would open a new one."""
        if self._channel is not None:
            self._channel.abort()
            self._channel = None

    async def get(self, path: str) -> HttpResponse:
        """Return the answer to one request; there must be no other at the same time. Sets no time limit.

        Raises ``OSError`` when there is no connection or it ends early, and ``ValueError`` when the answer is not HTTP
        or too large.
        """
        kept, self._channel = self._channel, None
        if kept is not None and not kept.ended:
            try:
                return await self._ask(kept, path)
            except OSError:
                # The worker was closing it while the request was on its way, as it may with one that was idle.
                if kept.answering:
                    raise
        loop = asyncio.get_running_loop()
        _, channel = await loop.create_connection(_Channel, self._host, self._port)
        return await self._ask(channel, path)

    async def _ask(self, channel: "_Channel", path: str) -> HttpResponse:
        request = get_request(host=self._host, port=self._port, path=path, keep=True, accept=self._accept)
        try:
            response = await channel.ask(request, ResponseReader(max_body_bytes=self._max_body_bytes))
            if response.reusable:
                self._channel = channel
            return response
        finally:
            if self._channel is not channel:
                channel.abort()


class _Channel(asyncio.Protocol):
    """The socket. ``answering`` once the first byte of an answer has come, ``ended`` when it carries no more."""

    def __init__(self) -> None:
        self.answering = False
        self.ended = False
        self._transport: asyncio.Transport | None = None
        self._reader: ResponseReader | None = None
        self._response: asyncio.Future[HttpResponse] | None = None

    async def ask(self, request: bytes, reader: ResponseReader) -> HttpResponse:
        assert self._transport is not None
        self.answering = False
        self._reader = reader
        response: asyncio.Future[HttpResponse] = asyncio.get_running_loop().create_future()
        self._response = response
        self._transport.write(request)
        try:
            return await response
        finally:
            self._reader = self._response = None

    def abort(self) -> None:
        self.ended = True
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of it

    def data_received(self, data: bytes) -> None:
        if self._reader is None or self._response is None or self._response.done():
            # Nothing was asked, so it answers nothing.
            self.abort()
            return
        self.answering = True
        try:
            response = self._reader.feed(data)
        except ValueError as error:
            self._response.set_exception(error)
            return
        if response is not None:
            self._response.set_result(response)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        if self._reader is None or self._response is None or self._response.done():
            return
        try:
            if exc is not None:
                raise exc
            self._response.set_result(self._reader.end())
        except Exception as error:  # noqa: BLE001 - handed to whoever asked
            self._response.set_exception(error)
