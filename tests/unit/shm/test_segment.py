import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.errors import StartupError
from extproc.shm.layout import PAGE_BYTES, SEGMENT_BYTES, VERSION, Part
from extproc.shm.segment import Segment
from tests.support.processes import python_child


def test_what_one_mapping_writes_the_other_reads() -> None:
    created = Segment.create()
    attached = Segment.attach(os.dup(created.fd))
    created.buffer[-3:] = b"end"
    assert attached.buffer[-3:].tobytes() == b"end"
    attached.close()
    created.close()


def test_a_child_attaches_by_the_descriptor_number_it_inherits() -> None:
    segment = Segment.create()
    code = "import sys; from extproc.shm.segment import Segment; Segment.attach(int(sys.argv[1])).buffer[-3:] = b'kid'"
    with python_child(code, str(segment.fd), pass_fds=(segment.fd,)) as child:
        assert child.wait() == 0
    assert segment.buffer[-3:].tobytes() == b"kid"
    segment.close()


def test_the_descriptor_is_not_inherited_unless_passed() -> None:
    segment = Segment.create()
    assert not os.get_inheritable(segment.fd)
    segment.close()


def test_nobody_can_change_the_size() -> None:
    segment = Segment.create()
    for size in (SEGMENT_BYTES - 1, SEGMENT_BYTES + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(segment.fd, size)
    segment.close()


def test_memory_stays_readable_after_close() -> None:
    segment = Segment.create()
    words = segment.words(0, 64)
    segment.close()
    assert words[1] == VERSION


@pytest.mark.parametrize(
    ("word", "value", "says"),
    [(0, 7, "magic 0x7"), (1, VERSION + 1, f"version {VERSION + 1}"), (2, 5, f"5 of {SEGMENT_BYTES} bytes")],
    ids=["magic", "version", "size"],
)
def test_a_foreign_header_is_refused(word: int, value: int, says: str) -> None:
    segment = Segment.create()
    segment.words(0, 64)[word] = value
    with pytest.raises(StartupError, match=says):
        Segment.attach(segment.fd)
    segment.close()


def test_a_descriptor_that_is_too_small_is_refused() -> None:
    fd = os.memfd_create("small")
    with pytest.raises(StartupError, match="0 bytes, expected"):
        Segment.attach(fd)
    os.close(fd)


def test_a_descriptor_that_is_not_open_is_refused() -> None:
    fd = os.memfd_create("closed")
    os.close(fd)
    with pytest.raises(StartupError, match="cannot map"):
        Segment.attach(fd)


def test_a_size_the_system_cannot_give_leaves_no_descriptor_behind() -> None:
    before = set(Path("/proc/self/fd").iterdir())
    with pytest.raises(OSError, match=r"."):
        Segment.create({Part.TOKEN_STORE: 1 << 62})
    assert set(Path("/proc/self/fd").iterdir()) == before


PART_SIZES = st.dictionaries(st.sampled_from(Part), st.integers(1, 5 * PAGE_BYTES))


@given(PART_SIZES)
def test_parts_lie_on_pages_behind_the_fixed_ones_and_overlap_nothing(sizes: dict[Part, int]) -> None:
    segment = Segment.create(sizes)
    for part in Part:
        assert len(segment.part(part)) == sizes.get(part, 0)
        segment.part(part)[:] = bytes([part + 1]) * sizes.get(part, 0)
    attached = Segment.attach(os.dup(segment.fd))
    for part, size in sizes.items():
        assert attached.part(part).tobytes() == bytes([part + 1]) * size
    written = sum(attached.buffer[SEGMENT_BYTES:].tobytes().count(part + 1) for part in Part)
    assert written == sum(sizes.values())
    assert not any(attached.buffer[SEGMENT_BYTES - PAGE_BYTES : SEGMENT_BYTES])
    for part in sizes:
        assert address_of(attached, part) % PAGE_BYTES == 0
    segment.close()
    attached.close()


def address_of(segment: Segment, part: Part) -> int:
    """Where a part begins in the segment, found by what is written there."""
    segment.part(part)[0] = 99
    place = segment.buffer[SEGMENT_BYTES:].tobytes().index(99) + SEGMENT_BYTES
    segment.part(part)[0] = part + 1
    return place


def test_parts_lie_in_the_same_order_however_they_are_named() -> None:
    sizes = {Part.STICKY_MAP: 100, Part.TOKEN_STORE: 5000, Part.PREFIX_INDEX: 200}
    segment = Segment.create(sizes)
    places = [address_of(segment, part) for part in Part]
    assert places == [SEGMENT_BYTES, SEGMENT_BYTES + 2 * PAGE_BYTES, SEGMENT_BYTES + 3 * PAGE_BYTES]
    assert len(segment.buffer) == SEGMENT_BYTES + 4 * PAGE_BYTES
    segment.close()


def test_a_part_that_there_is_not_is_empty() -> None:
    segment = Segment.create({Part.PREFIX_INDEX: 100})
    assert [len(segment.part(part)) for part in Part] == [0, 100, 0]
    segment.close()
