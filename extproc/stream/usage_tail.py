"""What an answer says of its prompt's cached tokens, read from the end of its body.

Only the end is kept. In an answer as one JSON document ``usage`` comes after the choices; in one as server-sent events
the event that carries it comes just before ``data: [DONE]``. How the body is cut into chunks makes no difference.

What a prompt or an answer quotes cannot be taken for it: a document or an event that is there as a whole is decoded,
and where only the end of a document is there, ``"usage":`` counts as a key of the document itself when exactly the
document's own brace is open there. A quoted one has its quotes escaped.
"""

import re
from typing import NamedTuple

import msgspec

DOCUMENT_TAIL_BYTES = 1 << 16
EVENTS_TAIL_BYTES = 1 << 14
MAX_USAGE_BYTES = 1 << 12
"""The longest ``usage`` that is read out of the end of a document."""

# One that does not end goes to the end: else each quote in it would be tried in its turn, up to there.
_STRING = rb'"(?:[^"\\]|\\.)*+(?:"|\Z)'
_STRINGS = re.compile(_STRING, re.DOTALL)
_TOKENS = re.compile(_STRING + rb"|[{}]", re.DOTALL)
_KEY = re.compile(rb'(?<!\\)"usage"\s*:\s*(?=\{)')
_EVENT_DATA = b"data:"


class Usage(NamedTuple):
    """The tokens of a prompt, and how many of them the engine had cached."""

    prompt_tokens: int
    cached_tokens: int


class UsageTail:
    """The end of one answer's body; ``events`` when it is server-sent events, else it is a JSON document."""

    __slots__ = ("_events", "_most", "_seen", "_tail")

    def __init__(self, *, events: bool) -> None:
        self._events = events
        self._most = EVENTS_TAIL_BYTES if events else DOCUMENT_TAIL_BYTES
        self._tail = bytearray()
        self._seen = 0

    def take(self, chunk: bytes) -> None:
        """Take the next bytes of the body."""
        self._seen += len(chunk)
        tail = self._tail
        tail += chunk if len(chunk) <= self._most else chunk[-self._most :]
        if len(tail) > 2 * self._most:
            del tail[: -self._most]

    def read(self) -> Usage | None:
        """Return what the body says, None when it does not say it; nothing of the body is kept after that."""
        tail, self._tail = bytes(self._tail[-self._most :]), bytearray()
        if self._events:
            return _in_events(tail)
        return _in_end_of_document(tail) if self._seen > len(tail) else _usage_of(tail)


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Document(msgspec.Struct):
    usage: _Usage | None = None


_DOCUMENTS = msgspec.json.Decoder(_Document)


def _usage_of(document: bytes) -> Usage | None:
    try:
        usage = _DOCUMENTS.decode(document).usage
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if usage is None or usage.prompt_tokens is None or usage.prompt_tokens_details is None:
        return None
    cached = usage.prompt_tokens_details.cached_tokens
    if cached is None or not 0 <= cached <= usage.prompt_tokens:
        return None
    return Usage(usage.prompt_tokens, cached)


def _in_events(tail: bytes) -> Usage | None:
    """Return what the last event with a usage says; an event that is there in part only is none."""
    for line in reversed(tail.split(b"\n")):
        if line.startswith(_EVENT_DATA) and b'"usage"' in line:
            usage = _usage_of(line[len(_EVENT_DATA) :])
            if usage is not None:
                return usage
    return None


def _in_end_of_document(tail: bytes) -> Usage | None:
    """Return the usage of the document itself, of which the beginning is missing."""
    end, depth = len(tail), 0
    # From its second byte, as the byte before has to be known.
    for key in reversed(list(_KEY.finditer(tail, 1))):
        depth += _depth_change(tail[key.start() : end])
        end = key.start()
        if depth == -1:
            return _usage_of(b'{"usage":' + _object_at(tail, key.end()) + b"}")
    return None


def _depth_change(text: bytes) -> int:
    """Return how many more objects and arrays begin than end in a text that begins outside of strings."""
    bare = _STRINGS.sub(b"", text)
    return bare.count(b"{") + bare.count(b"[") - bare.count(b"}") - bare.count(b"]")


def _object_at(text: bytes, start: int) -> bytes:
    """Return the object that begins there; nothing when it does not end in time."""
    depth = 0
    for token in _TOKENS.finditer(text, start, start + MAX_USAGE_BYTES):
        depth += {b"{": 1, b"}": -1}.get(token[0], 0)
        if depth == 0:
            return text[start : token.end()]
    return b""
