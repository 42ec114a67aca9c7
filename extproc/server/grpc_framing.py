"""gRPC over HTTP/2, without the HTTP/2: length-prefixed messages, status headers.

A message on the wire is one byte of flags (1: compressed), four bytes of length, the message. How the bytes are cut
into DATA frames means nothing.
"""

from collections.abc import Iterator
from enum import IntEnum

PREFIX_BYTES = 5
RESPONSE_HEADERS = ((b":status", b"200"), (b"content-type", b"application/grpc"))
_OK_TRAILERS = ((b"grpc-status", b"0"),)
_PRINTABLE = frozenset(range(0x20, 0x7F)) - {ord("%")}
_MAX_DETAIL_BYTES = 1024


class Status(IntEnum):
    """The gRPC status codes that this server gives."""

    OK = 0
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


class FramingError(Exception):
    """The stream cannot go on; ``status`` and the message tell the peer why."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


class MessageReader:
    """Gathers the messages of one direction of one stream.

    Holds one incomplete message and at most the frames that completed one, so never much more than
    ``max_message_bytes``. Takes time linear in the bytes, however small the pieces.
    """

    __slots__ = ("_buffer", "_max_message_bytes")

    def __init__(self, max_message_bytes: int) -> None:
        self._buffer = bytearray()
        self._max_message_bytes = max_message_bytes

    def __len__(self) -> int:
        """Bytes of the message that has begun."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take the next bytes and yield every message they complete; run it to its end.

        Raises :class:`FramingError` for a compressed message and, before its bytes are gathered, for one that is too
        long.
        """
        buffer = self._buffer
        buffer += data
        start = 0
        try:
            while len(buffer) - start >= PREFIX_BYTES:
                if buffer[start]:
                    raise FramingError(Status.UNIMPLEMENTED, "compressed messages are not supported")
                begin = start + PREFIX_BYTES
                end = begin + int.from_bytes(buffer[start + 1 : begin], "big")
                if end - begin > self._max_message_bytes:
                    message = f"a message of {end - begin} bytes; at most {self._max_message_bytes} are taken"
                    raise FramingError(Status.RESOURCE_EXHAUSTED, message)
                if end > len(buffer):
                    break
                start = end
                with memoryview(buffer) as view:
                    whole = bytes(view[begin:end])
                yield whole
        finally:
            del buffer[:start]


def is_one_message(data: bytes) -> bool:
    """Whether these bytes are exactly one uncompressed message, the common case."""
    return data[0] == 0 and int.from_bytes(data[1:PREFIX_BYTES], "big") == len(data) - PREFIX_BYTES


def frame(message: bytes) -> bytes:
    """Return the message with its prefix."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def trailers(status: int, detail: str) -> tuple[tuple[bytes, bytes], ...]:
    """Return the trailers that end an RPC."""
    if not status:
        return _OK_TRAILERS
    status_field = (b"grpc-status", b"%d" % status)
    return (status_field, (b"grpc-message", percent_encoded(detail))) if detail else (status_field,)


def percent_encoded(text: str) -> bytes:
    """Return a ``grpc-message``: UTF-8 with everything but printable ASCII escaped, cut to a bounded length."""
    raw = text.encode("utf-8", "replace")[:_MAX_DETAIL_BYTES]
    return b"".join(bytes((byte,)) if byte in _PRINTABLE else b"%%%02X" % byte for byte in raw)
