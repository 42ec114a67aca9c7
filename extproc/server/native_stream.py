"""One RPC on a connection of the native transport: bytes to messages one way, messages and status the other."""

import logging
from typing import Protocol

from ngh2 import Connection, NGH2Error

from extproc.server.base import OpenStream, StreamHandler
from extproc.server.grpc_framing import (
    PREFIX_BYTES,
    RESPONSE_HEADERS,
    FramingError,
    MessageReader,
    Status,
    frame,
    is_one_message,
    trailers,
)

logger = logging.getLogger(__name__)

_INTERNAL = "internal error"


class StreamOwner(Protocol):
    """What a stream needs of its connection."""

    h2: Connection
    max_message_bytes: int

    def hold(self, delta: int) -> bool:
        """Account for bytes of a message half received, more or (negative) fewer; whether the limit still holds."""

    def wake(self) -> None:
        """See to it that queued output is written soon."""

    def reset_once_written(self, stream_id: int) -> None:
        """Tell the peer to stop sending on a finished stream, after its trailers have gone out."""


class NativeStream:
    """Joins one handler to one HTTP/2 stream; to the handler it is the responder.

    The library raises for whatever is sent on a stream that the peer has ended, often in the very read that also
    carried its last message. That is no error here: the end is on its way as an event and calls :meth:`over`.
    """

    __slots__ = (
        "_finished", "_half_closed", "_handler", "_headers_sent", "_held", "_owner", "_reader", "heard",
        "id", "process",
    )  # fmt: skip

    def __init__(self, owner: StreamOwner, stream_id: int, *, process: bool) -> None:
        self._owner = owner
        self._handler: StreamHandler | None = None
        self._reader: MessageReader | None = None
        self._headers_sent = False
        self._held = 0
        self._half_closed = False
        self._finished = False
        self.id = stream_id
        self.process = process
        self.heard = False
        """Whether a whole message has come."""

    # From the handler

    def send(self, message: bytes) -> None:
        """Send one message; see :class:`~extproc.server.base.Responder`."""
        if self._finished:
            return
        owner = self._owner
        try:
            if not self._headers_sent:
                self._headers_sent = True
                owner.h2.send_response(self.id, RESPONSE_HEADERS)
            owner.h2.send_data(self.id, frame(message))
        except NGH2Error:
            return
        owner.wake()

    def finish(self, status: int = 0, detail: str = "") -> None:
        """End the RPC; see :class:`~extproc.server.base.Responder`."""
        if self._finished:
            return
        self._finished = True
        owner = self._owner
        try:
            if self._headers_sent:
                owner.h2.send_trailers(self.id, trailers(status, detail))
            else:
                owner.h2.send_response(self.id, RESPONSE_HEADERS + trailers(status, detail), end_stream=True)
        except NGH2Error:
            return
        if not self._half_closed:
            owner.reset_once_written(self.id)
        owner.wake()

    # From the connection

    def open(self, opener: OpenStream) -> None:
        """Make the handler."""
        try:
            self._handler = opener(self)
        except Exception:
            logger.exception("A stream handler could not be made")
            self.finish(Status.INTERNAL, _INTERNAL)

    def take(self, data: bytes) -> None:
        """Take the data of one frame and hand on the messages it completes."""
        handler = self._handler
        if self._finished or handler is None:
            return
        try:
            # Nearly every frame holds exactly one message: no buffer then, and one copy.
            if self._reader is None and is_one_message(data) and len(data) <= self._owner.max_message_bytes:
                self.heard = True
                handler.receive(data[PREFIX_BYTES:])
            else:
                self._gather(handler, data)
        except FramingError as error:
            self.finish(error.status, str(error))
        except Exception:
            logger.exception("A stream handler failed")
            self.finish(Status.INTERNAL, _INTERNAL)

    def half_close(self) -> None:
        """The peer has ended its side."""
        self._half_closed = True
        if self._finished or self._handler is None:
            return
        if self._reader is not None:
            self.finish(Status.INTERNAL, "the last message is cut short")
            return
        try:
            self._handler.half_close()
        except Exception:
            logger.exception("A stream handler failed at half close")
            self.finish(Status.INTERNAL, _INTERNAL)

    def drain(self) -> None:
        """The process is about to stop."""
        if self._finished or self._handler is None:
            return
        try:
            self._handler.drain()
        except Exception:
            logger.exception("A stream handler failed to drain")
            self.finish(Status.INTERNAL, _INTERNAL)

    def over(self) -> None:
        """The stream is gone. Dropping the handler here also breaks the cycle between the two."""
        self._finished = True
        if self._held:
            self._hold(0)
        handler, self._handler = self._handler, None
        if handler is not None:
            try:
                handler.closed()
            except Exception:
                logger.exception("A stream handler failed to close")

    def _gather(self, handler: StreamHandler, data: bytes) -> None:
        reader = self._reader
        if reader is None:
            reader = self._reader = MessageReader(self._owner.max_message_bytes)
        for message in reader.feed(data):
            self.heard = True
            handler.receive(message)
            if self._finished:
                return
        if not self._hold(len(reader)):
            raise FramingError(Status.RESOURCE_EXHAUSTED, "too much is being received at once")
        if not reader:
            self._reader = None

    def _hold(self, size: int) -> bool:
        """Account for what this stream holds of a message now; whether that fits into what all may hold."""
        grown, self._held = size - self._held, size
        return not grown or self._owner.hold(grown)
