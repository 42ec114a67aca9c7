"""Makes one trace of the parts of a recording.

A trace is a file of JSON lines, one for each request in the order of arrival, with the fields of the Mooncake traces
(``timestamp``, ``input_length``, ``output_length``, ``hash_ids``) and more of ours; see :class:`TraceLine`.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
import xxhash

from extproc.recording.record import (
    HASH_BYTES,
    TRACE_BLOCK_TOKENS,
    Closing,
    InputFrom,
    OutputFrom,
    Recorded,
    read_frames,
)

MS_PER_SEC = 1000


class TraceLine(msgspec.Struct, kw_only=True, gc=False):
    """One request of a trace.

    ``timestamp`` is when it arrived, in whole milliseconds since the first one. ``hash_ids`` has one number for each
    512 tokens of the prompt, the last of them begun; it stands for everything up to the end of those tokens, so equal
    numbers are equal prefixes. Prompts whose tokens are not known have numbers that no other has. ``ended_ms`` is the
    time from ``timestamp`` to the end of the answer, null where that was not seen. ``input_from`` and ``output_from``
    say how the lengths are known (:data:`~extproc.recording.record.InputFrom`,
    :data:`~extproc.recording.record.OutputFrom`). ``worker`` is the one that was chosen, ``served`` the one that has
    answered, ``status`` how; both null when none has.
    """

    timestamp: int
    input_length: int
    output_length: int
    hash_ids: list[int]
    model: str | None
    worker: str
    policy: str
    reason: str
    matched_tokens: int | None
    ended_ms: int | None
    served: str | None
    status: int | None
    input_from: InputFrom
    output_from: OutputFrom


class Contents(NamedTuple):
    """What the parts of a recording hold.

    ``places`` are the requests by arrival: when, in which part, and from where to where. ``torn`` parts end with bytes
    that are no whole entry. ``unfinished`` parts do not say that they are complete: their routers have died, or could
    not write. ``left_out`` requests found no room, as far as routers could say.
    """

    places: list[tuple[float, int, int, int]]
    torn: int
    unfinished: int
    left_out: int


def read_contents(parts: Sequence[bytes]) -> Contents:
    """Look through all parts."""
    places = []
    torn = unfinished = left_out = 0
    for number, part in enumerate(parts):
        finished = False
        for entry, start, end in read_frames(part):
            if entry is None:
                torn += 1
            elif isinstance(entry, Recorded):
                places.append((entry.arrived, number, start, end))
            elif isinstance(entry, Closing):
                finished = True
                left_out += entry.left_out
        unfinished += not finished
    return Contents(sorted(places), torn, unfinished, left_out)


def trace_lines(parts: Sequence[bytes], contents: Contents) -> Iterator[TraceLine]:
    """Return the requests of all parts in order."""
    ids = _Ids()
    first = contents.places[0][0] if contents.places else 0.0
    for _, number, start, end in contents.places:
        entry, _, _ = next(read_frames(parts[number][start:end]))
        assert isinstance(entry, Recorded), "the place of a request"
        yield _line(entry, first, ids)


def _line(recorded: Recorded, first: float, ids: "_Ids") -> TraceLine:
    lasted = recorded.lasted
    return TraceLine(
        timestamp=round((recorded.arrived - first) * MS_PER_SEC),
        input_length=recorded.input_length,
        output_length=recorded.output_length,
        hash_ids=ids.of(recorded),
        model=recorded.model,
        worker=recorded.worker,
        policy=recorded.policy,
        reason=recorded.reason,
        matched_tokens=recorded.matched_tokens,
        ended_ms=None if lasted is None else round(lasted * MS_PER_SEC),
        served=recorded.served,
        status=recorded.status or None,
        input_from=recorded.input_from,
        output_from=recorded.output_from,
    )


class _Ids:
    """Small numbers for hashes, counted up from 0 as they come."""

    def __init__(self) -> None:
        self._known: dict[int, int] = {}
        self._next = 0

    def of(self, recorded: Recorded) -> list[int]:
        """Return as many numbers as the prompt has blocks, the last of them begun."""
        count = -(-recorded.input_length // TRACE_BLOCK_TOKENS)
        hashes = memoryview(recorded.hashes[: len(recorded.hashes) // HASH_BYTES * HASH_BYTES]).cast("Q").tolist()
        tail = hashes.pop() if recorded.tail and hashes else None
        ids = [self._of_hash(one) for one in hashes[:count]]
        for place in range(len(ids), count):
            if tail is None:
                ids.append(self._new())
            else:
                ids.append(self._of_hash(_tail_hash(tail, recorded.input_length, place)))
        return ids

    def _of_hash(self, one: int) -> int:
        number = self._known.get(one)
        if number is None:
            number = self._known[one] = self._new()
        return number

    def _new(self) -> int:
        self._next += 1
        return self._next - 1


def _tail_hash(last: int, length: int, place: int) -> int:
    """Return the hash of a block that is not whole, or not known whole: prompts that end there alike share it."""
    return xxhash.xxh3_64_intdigest(struct.pack("<QQQ", last, length, place))
