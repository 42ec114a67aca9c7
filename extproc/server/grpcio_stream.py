"""One RPC of the grpcio transport: a coroutine that writes, a task that reads, a handler between them."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import grpc

from extproc.server.base import OpenStream, StreamHandler
from extproc.server.grpc_framing import Status
from extproc.telemetry.tasks import spawn

logger = logging.getLogger(__name__)

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_INTERNAL = "internal error"
_MAX_WAITING = 64
_CANCEL_SECS = 0.005
"""A cancelled RPC looks half closed first; the library says that it is cancelled within a turn or two of its poller."""


class GrpcioStream:
    """Joins one handler to one RPC; to the handler it is the responder.

    :meth:`run` is the RPC: it ends when the handler has finished and everything is written, or is cancelled when the
    peer cancels or the connection is lost. Nothing is read while ``_MAX_WAITING`` replies wait for a peer that does not
    take them, so what waits is bounded by what handlers answer to so many messages.
    """

    def __init__(self, context: Any, *, process: bool) -> None:  # noqa: ANN401 - grpcio ships no types
        self._context = context
        self._handler: StreamHandler | None = None
        self._replies: deque[bytes] = deque()
        self._status: tuple[int, str] | None = None
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self.process = process

    # From the handler

    def send(self, message: bytes) -> None:
        """Send one message; see :class:`~extproc.server.base.Responder`."""
        if self._status is None:
            self._replies.append(message)
            self._work.set()
            if len(self._replies) >= _MAX_WAITING:
                self._room.clear()

    def finish(self, status: int = 0, detail: str = "") -> None:
        """End the RPC; see :class:`~extproc.server.base.Responder`."""
        if self._status is None:
            self._status = (status, detail)
            self._work.set()
            self._room.set()

    # From the server

    async def run(self, opener: OpenStream) -> None:
        """Serve the RPC to its end."""
        reader: asyncio.Task[None] | None = None
        try:
            try:
                self._handler = opener(self)
            except Exception:
                logger.exception("A stream handler could not be made")
                self.finish(Status.INTERNAL, _INTERNAL)
            else:
                reader = spawn(self._read(self._handler), name="grpcio reader")
            await self._write()
        finally:
            if reader is not None:
                reader.cancel()
            self._over()

    def drain(self) -> None:
        """The process is about to stop."""
        if self._handler is not None and self._status is None:
            self._guarded(self._handler.drain)

    async def _read(self, handler: StreamHandler) -> None:
        while self._status is None:
            await self._room.wait()
            message = await self._context.read()
            if self._status is not None:
                return
            if message is grpc.aio.EOF:
                await asyncio.sleep(_CANCEL_SECS)
                self._guarded(handler.half_close)
                return
            try:
                handler.receive(message)
            except Exception:
                logger.exception("A stream handler failed")
                self.finish(Status.INTERNAL, _INTERNAL)

    async def _write(self) -> None:
        """Write what is sent until the handler has finished, then set the status that returning sends."""
        while True:
            self._work.clear()
            while self._replies:
                await self._context.write(self._replies.popleft())
                self._room.set()
            if self._status is not None:
                break
            await self._work.wait()
        status, detail = self._status
        self._context.set_code(_CODES.get(status, grpc.StatusCode.UNKNOWN))
        self._context.set_details(detail)

    def _over(self) -> None:
        if self._status is None:
            self._status = (Status.OK, "")
        self._replies.clear()
        handler, self._handler = self._handler, None
        if handler is not None:
            try:
                handler.closed()
            except Exception:
                logger.exception("A stream handler failed to close")

    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:
            logger.exception("A stream handler failed")
            self.finish(Status.INTERNAL, _INTERNAL)
