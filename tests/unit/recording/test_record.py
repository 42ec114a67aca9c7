"""Frames of a part: what is written is read again, and what is torn or spoilt is seen."""

import struct
import zlib

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from extproc.recording.record import (
    FORMAT_VERSION,
    PART_PATTERN,
    Closing,
    Entry,
    Opening,
    Recorded,
    frame,
    frames,
    part_name,
    read_frames,
)
from tests.support.recordings import recorded

texts = st.text(max_size=20).filter(lambda text: text.isprintable())
lengths = st.integers(0, 1 << 24)
requests = st.builds(
    Recorded,
    arrived=st.floats(0, 1e9),
    lasted=st.none() | st.floats(0, 1e6),
    input_length=lengths,
    input_from=st.sampled_from(["tokens", "text", "size"]),
    output_length=lengths,
    output_from=st.sampled_from(["time", "limit", "assumed"]),
    hashes=st.lists(st.binary(min_size=8, max_size=8), max_size=20).map(b"".join),
    tail=st.booleans(),
    model=st.none() | texts,
    worker=texts,
    served=st.none() | texts,
    status=st.integers(0, 599),
    policy=texts,
    reason=texts,
    matched_tokens=st.none() | lengths,
)
entries = st.one_of(requests, st.builds(Closing, left_out=lengths), st.builds(Opening))


def read(part: bytes) -> tuple[list[Entry], int]:
    """The whole entries, and how many bytes are left over."""
    found = list(read_frames(part))
    left = sum(end - start for entry, start, end in found if entry is None)
    return [entry for entry, _, _ in found if entry is not None], left


@given(st.lists(entries, max_size=6))
def test_what_is_written_is_read_again_and_where_it_stood(written: list[Entry]) -> None:
    pieces = [frame(entry) for entry in written]
    part = b"".join(pieces)
    assert read(part) == (written, 0)
    assert [part[start:end] for _, start, end in read_frames(part)] == pieces


@given(st.lists(entries, min_size=1, max_size=5), st.data())
def test_of_a_torn_part_everything_whole_is_read(written: list[Entry], data: st.DataObject) -> None:
    pieces = [frame(entry) for entry in written]
    part = b"".join(pieces)
    cut = data.draw(st.integers(0, len(part)))
    whole = [entry for number, entry in enumerate(written) if len(b"".join(pieces[: number + 1])) <= cut]
    found, left = read(part[:cut])
    assert found == whole
    assert left == cut - len(b"".join(pieces[: len(whole)]))


@given(st.lists(entries, min_size=1, max_size=4), st.data())
def test_a_spoilt_byte_ends_the_part_before_its_entry(written: list[Entry], data: st.DataObject) -> None:
    pieces = [frame(entry) for entry in written]
    part = bytearray(b"".join(pieces))
    place = data.draw(st.integers(0, len(part) - 1))
    part[place] ^= data.draw(st.integers(1, 255))
    found, left = read(bytes(part))
    assert left
    assert found == written[: len(found)]
    assert len(b"".join(pieces[: len(found)])) <= place


@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_a_fault(part: bytes) -> None:
    found, left = read(part)
    assert left <= len(part)
    assert sum(len(frame(entry)) for entry in found) <= len(part)


def test_a_whole_frame_of_something_else_is_left_over() -> None:
    payload = msgspec.msgpack.encode(["something", 1])
    foreign = struct.pack("<II", len(payload), zlib.crc32(payload)) + payload
    assert read(frame(Opening()) + foreign) == ([Opening(FORMAT_VERSION)], len(foreign))


@given(st.lists(st.binary(min_size=8, max_size=8), max_size=30, unique=True), st.integers(1, (1 << 64) - 1))
def test_salted_hashes_are_equal_where_the_hashes_are_and_say_nothing_else(hashes: list[bytes], salt: int) -> None:
    one, two = recorded(hashes=b"".join(hashes)), recorded(hashes=b"".join(reversed(hashes)))
    raw = one.hashes
    found, _ = read(b"".join(frames([one, two], salt=salt)))
    first, second = (np.frombuffer(entry.hashes, np.uint64) for entry in found if isinstance(entry, Recorded))
    assert first.tolist() == second[::-1].tolist()
    assert len(set(first.tolist())) == len(hashes)
    other, _ = read(b"".join(frames([recorded(hashes=raw)], salt=salt ^ 1)))
    assert isinstance(other[0], Recorded)
    assert not set(first.tolist()) & set(np.frombuffer(other[0].hashes, np.uint64).tolist())


def test_the_name_of_a_part_says_whose_it_is() -> None:
    found = PART_PATTERN.fullmatch(part_name(recording=0xAB, slot=3, pid=4567))
    assert found is not None
    assert found.groupdict() == {"recording": "00000000000000ab", "slot": "3", "pid": "4567"}
