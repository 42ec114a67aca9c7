"""One recorded request as bytes, and the files of a recording in which routers write them.

A *part* is what one router writes of one recording: frames one after the other, each with its length and checksum, so
that whatever a killed process has left half written is seen and left out::

    frame     length of the payload (32 bits), CRC-32 of the payload (32 bits), payload
    payload   MessagePack: Opening, then any number of Recorded, then Closing when the router came to an end

Hashes leave a router mixed with the salt of the recording, a random number that is written nowhere: they can be
compared with each other and with nothing else.
"""

import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec
import numpy as np

FORMAT_VERSION = 1
TRACE_BLOCK_TOKENS = 512
"""Tokens that one id of a trace stands for."""
MAX_INPUT_TOKENS = 1 << 22
"""A longer prompt is recorded as one of this length: lengths may come from a header that claims anything."""
HASH_BYTES = 8
MAX_FRAME_BYTES = 1 << 20
PART_PATTERN = re.compile(r"(?P<recording>[0-9a-f]{16})-(?P<slot>\d+)-(?P<pid>\d+)\.part")

InputFrom = Literal["tokens", "text", "size"]
"""The token ids that the engine sees; four bytes of the prompt's text as a token; four bytes of the request's body."""

OutputFrom = Literal["time", "limit", "assumed"]
"""How long the answer took, by the engine's time for a token; the request's own limit; the configured assumption."""

_FRAME = struct.Struct("<II")
_MULTIPLIER = np.uint64(0xBF58476D1CE4E5B9)
_FIRST_SHIFT, _SECOND_SHIFT = np.uint64(32), np.uint64(29)


class Opening(msgspec.Struct, array_like=True, tag="opening", gc=False):
    """What a part starts with."""

    version: int = FORMAT_VERSION


class Recorded(msgspec.Struct, array_like=True, tag="request", kw_only=True, gc=False):
    """One request.

    ``arrived`` is on the monotonic clock that all processes of a machine share, in seconds, and ``lasted`` the seconds
    from then to the end of the answer, None where that was not seen. ``hashes`` are 64-bit block hashes, one for each
    whole block of ``TRACE_BLOCK_TOKENS``; with ``tail`` there is one more, that of the prompt's last whole block of any
    size. ``worker`` is the first choice, ``served`` who sent the response headers and ``status`` what they said; None
    and 0 when there were none. ``model`` is None where the body was not read.
    """

    arrived: float
    lasted: float | None
    input_length: int
    input_from: InputFrom
    output_length: int
    output_from: OutputFrom
    hashes: bytes
    tail: bool
    model: str | None
    worker: str
    served: str | None
    status: int
    policy: str
    reason: str
    matched_tokens: int | None


class Closing(msgspec.Struct, array_like=True, tag="closing", gc=False):
    """What a part ends with when its router has written all that it could; ``left_out`` requests are not in it."""

    left_out: int


Entry = Opening | Recorded | Closing

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entry).decode


def part_name(*, recording: int, slot: int, pid: int) -> str:
    """Return the name of a process's part; ``slot`` is its row in the process table."""
    return f"{recording:016x}-{slot}-{pid}.part"


def frame(entry: Entry) -> bytes:
    """Return an entry as it stands in a part."""
    payload = _encode(entry)
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def frames(requests: Sequence[Recorded], *, salt: int) -> Iterator[bytes]:
    """Return requests as they stand in a part, their hashes mixed with ``salt``, in place."""
    mixed = _mixed(b"".join([request.hashes for request in requests]), salt)
    start = 0
    for request in requests:
        end = start + len(request.hashes)
        request.hashes = mixed[start:end]
        start = end
        yield frame(request)


def read_frames(part: bytes) -> Iterator[tuple[Entry | None, int, int]]:
    """Yield the entries of a part and where each starts and ends, as far as it is whole.

    The last is None, with the bytes that are left over, where the part does not end with a whole frame.
    """
    start = 0
    while start < len(part):
        entry, end = _read_frame(part, start)
        if entry is None:
            yield None, start, len(part)
            return
        yield entry, start, end
        start = end


def _read_frame(part: bytes, start: int) -> tuple[Entry | None, int]:
    body = start + _FRAME.size
    if body > len(part):
        return None, start
    length, checksum = _FRAME.unpack_from(part, start)
    payload = part[body : body + length] if length <= MAX_FRAME_BYTES else b""
    if len(payload) != length or zlib.crc32(payload) != checksum:
        return None, start
    try:
        return _decode(payload), body + length
    except msgspec.DecodeError:
        # Whole and still not ours: of another version.
        return None, start


def _mixed(hashes: bytes, salt: int) -> bytes:
    """Mix 64-bit hashes with a salt, one to one."""
    values = np.frombuffer(hashes, np.uint64) + np.uint64(salt)
    values ^= values >> _FIRST_SHIFT
    values *= _MULTIPLIER
    values ^= values >> _SECOND_SHIFT
    return values.tobytes()
