"""Reads one HTTP/1.1 response from the bytes that arrive; no I/O.

Just enough of HTTP for a small ``GET``: a body by ``Content-Length``, chunked, or up to the end of the connection;
informational responses are passed over. Everything has a limit.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from extproc.fleet.worker_http import MAX_STATUS_LINE_BYTES, read_status

MAX_HEAD_BYTES = 16 << 10
MAX_INFORMATIONAL = 8

_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;.*)?")
_DIGITS = re.compile(r"[0-9]{1,18}")


class HttpResponse(NamedTuple):
    """A whole response. ``reusable`` connections may carry another request."""

    status: int
    body: bytes
    reusable: bool


class ResponseReader:
    """Takes bytes until a response is complete.

    Whatever is wrong with it is a ``ValueError``; a connection that ends too early is a ``ConnectionError``.
    """

    def __init__(self, *, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        self._received = bytearray()
        self._step: Callable[[], bool] = self._read_head
        self._informational = 0
        self._status = 0
        self._reusable = False
        self._left = 0
        self._body = bytearray()
        self._to_the_end = False
        self._complete = False

    def feed(self, data: bytes) -> HttpResponse | None:
        """Take what has arrived; returns the response once it is complete. Raises ``ValueError``."""
        self._received += data
        while not self._complete:
            if not self._step():
                return None
        # What comes after the response answers nothing.
        return self._response(reusable=self._reusable and not self._received)

    def end(self) -> HttpResponse:
        """Take the end of the connection. Raises ``ConnectionError`` when the response is not complete."""
        if not self._to_the_end:
            raise ConnectionError("the connection ended before the answer did")
        return self._response(reusable=False)

    def _response(self, *, reusable: bool) -> HttpResponse:
        return HttpResponse(self._status, bytes(self._body), reusable)

    def _read_head(self) -> bool:
        head = self._take_up_to(b"\r\n\r\n", limit=MAX_HEAD_BYTES)
        if head is None:
            if b"\n" in self._received or len(self._received) > MAX_STATUS_LINE_BYTES:
                read_status(bytes(self._received[:MAX_STATUS_LINE_BYTES]))
            return False
        minor, self._status = read_status(head + b"\r\n")
        if self._status < 200:  # noqa: PLR2004 - the 1xx class
            self._informational += 1
            if self._status == 101 or self._informational > MAX_INFORMATIONAL:  # noqa: PLR2004 - Switching Protocols
                raise ValueError("the answer switches protocols, or has no end of informational responses")
            return True
        self._expect_body(_fields(head), minor=minor)
        return True

    def _expect_body(self, fields: dict[str, list[str]], *, minor: int) -> None:
        coding = ", ".join(fields.get("transfer-encoding", ())).lower()
        lengths = set(fields.get("content-length", ()))
        connection = ", ".join(fields.get("connection", ())).lower()
        if any(value.lower() != "identity" for value in fields.get("content-encoding", ())):
            raise ValueError("the body is compressed")
        options = {option.strip() for option in connection.split(",")}
        self._reusable = "close" not in options if minor else "keep-alive" in options
        if self._status in (204, 304):
            self._complete = True
        elif coding:
            if coding != "chunked":
                raise ValueError("an unknown transfer coding")
            # Both together are a fault of the sender, and two readers may differ in where the response ends.
            self._reusable = self._reusable and not lengths
            self._step = self._read_chunk_size
        elif lengths:
            self._expect_length(lengths)
        else:
            self._to_the_end = True
            self._step = self._read_to_the_end

    def _expect_length(self, lengths: set[str]) -> None:
        (length,) = lengths if len(lengths) == 1 else ("",)
        if not _DIGITS.fullmatch(length):
            raise ValueError("a content length that is no number")
        self._left = self._within_limit(int(length))
        self._step = self._read_length

    def _read_length(self) -> bool:
        self._complete = self._take_body()
        return self._complete

    def _read_to_the_end(self) -> bool:
        self._left = self._within_limit(len(self._received))
        self._take_body()
        return False

    def _read_chunk_size(self) -> bool:
        line = self._take_up_to(b"\r\n", limit=MAX_STATUS_LINE_BYTES)
        if line is None:
            return False
        found = _CHUNK_SIZE.fullmatch(line)
        if found is None:
            raise ValueError("a chunk without a size")
        self._left = self._within_limit(int(found[1], 16))
        self._step = self._read_chunk if self._left else self._read_trailers
        return True

    def _read_chunk(self) -> bool:
        if not self._take_body() or len(self._received) < 2:  # noqa: PLR2004 - the line's end
            return False
        if self._received[:2] != b"\r\n":
            raise ValueError("a chunk that does not end where it says")
        del self._received[:2]
        self._step = self._read_chunk_size
        return True

    def _read_trailers(self) -> bool:
        while (line := self._take_up_to(b"\r\n", limit=MAX_HEAD_BYTES)) is not None:
            self._left += len(line) + 2
            if not line:
                self._complete = True
                return True
            if self._left > MAX_HEAD_BYTES:
                raise ValueError("the trailers are too long")
        return False

    def _take_body(self) -> bool:
        """Move what has come of the ``_left`` bytes to the body; returns whether they are all there."""
        piece = self._received[: self._left]
        self._body += piece
        del self._received[: len(piece)]
        self._left -= len(piece)
        return not self._left

    def _take_up_to(self, end: bytes, *, limit: int) -> bytes | None:
        position = self._received.find(end, 0, limit + len(end))
        if position < 0:
            if len(self._received) >= limit + len(end):
                raise ValueError("a head or a line is too long")
            return None
        taken = bytes(self._received[:position])
        del self._received[: position + len(end)]
        return taken

    def _within_limit(self, more: int) -> int:
        if len(self._body) + more > self._max_body_bytes:
            raise ValueError(f"the body is larger than {self._max_body_bytes:,} bytes")
        return more


def _fields(head: bytes) -> dict[str, list[str]]:
    fields: dict[str, list[str]] = {}
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if not colon or not name or name[-1] in " \t":
            raise ValueError("a header without a name")
        fields.setdefault(name.lower(), []).append(value.strip(" \t"))
    return fields
