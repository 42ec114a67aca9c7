"""One RPC of the grpcio transport: a coroutine that writes, a task that reads, a handler between them."""

import asyncio
import logging
from collections import deque
from typing import Any

import grpc

from extproc.server.base import OpenStream, StreamHandler
from extproc.server.grpc_framing import Status
from extproc.telemetry.tasks import spawn

logger = logging.getLogger(__name__)

_STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}

Context = Any
"""grpc.aio's ServicerContext; grpcio ships no types."""


class GrpcioStream:
    """Joins one handler to one RPC; to the handler it is the responder.

    :meth:`run` is the RPC: it ends when the handler has finished and everything is written, or is cancelled when the
    peer cancels or the connection is lost. Replies wait in a queue that grows only by what handlers answer to messages
    read, and nothing is read while the peer does not take the replies (``_MAX_WAITING``).
    """

    def __init__(self, context: Context, opener: OpenStream) -> None:
        self._context = context
        self._opener = opener
        self._handler: StreamHandler | None = None
        self._replies: deque[bytes] = deque()
        self._status: tuple[int, str] | None = None
        self._wakeup = asyncio.Event()
        self._written = asyncio.Event()

    # From the handler

    def send(self, message: bytes) -> None:
        """Send one message; see :class:`~extproc.server.base.Responder`."""
        if self._status is None:
            self._replies.append(message)
            self._wakeup.set()

    def finish(self, status: int = 0, detail: str = "") -> None:
        """End the RPC; see :class:`~extproc.server.base.Responder`."""
        if self._status is None:
            self._status = (status, detail)
            self._wakeup.set()

    # From the server

    async def run(self) -> None:
        """Serve the RPC to its end."""
        reader: asyncio.Task[None] | None = None
        try:
            self._open()
            reader = spawn(self._read(), name="grpcio reader")
            await self._write()
        finally:
            if reader is not None:
                reader.cancel()
            self._over()
        assert self._status is not None, "writing ends with a status"
        code, detail = self._status
        if code:
            await self._context.abort(_STATUS_CODES.get(code, grpc.StatusCode.UNKNOWN), detail)
