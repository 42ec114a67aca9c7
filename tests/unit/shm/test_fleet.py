"""The fleet document. Left out: processors with weak memory order, which this suite cannot provoke."""

import itertools
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.shm import layout
from extproc.shm.fleet import FleetDocument
from extproc.shm.segment import Segment
from tests.support.processes import python_child, wait_until


@pytest.fixture
def segment() -> Segment:
    return Segment.create()


@pytest.fixture
def document(segment: Segment) -> FleetDocument:
    return FleetDocument(segment)


def test_nothing_is_read_before_something_is_published(document: FleetDocument) -> None:
    assert (document.generation, document.read()) == (0, None)


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=8))
def test_the_last_document_is_read_whole_with_its_generation(documents: list[bytes]) -> None:
    segment = Segment.create()
    writer, reader = FleetDocument(segment), FleetDocument(Segment.attach(segment.fd))
    for generation, data in enumerate(documents, start=1):
        assert writer.publish(data) == generation
        assert (reader.generation, reader.read()) == (generation, (generation, data))


def test_the_longest_document_fits_and_a_longer_one_is_refused(document: FleetDocument) -> None:
    longest = os.urandom(layout.FLEET_DOCUMENT_BYTES)
    document.publish(b"short")
    document.publish(longest)
    with pytest.raises(ValueError, match="at most 1,048,576 fit"):
        document.publish(longest + b"x")
    assert document.read() == (2, longest)


class WriterDiedError(Exception):
    """Stands for SIGKILL."""


TraceFunction = Callable[[FrameType, str, object], "TraceFunction | None"]


def publish_dying_at(line: int, document: FleetDocument, data: bytes) -> bool:
    """Publish, but die before the given executed line of the writer's code; whether that line was reached."""
    lines = itertools.count()

    def on_event(frame: FrameType, event: str, _argument: object) -> "TraceFunction | None":
        if frame.f_code is not FleetDocument.publish.__code__:
            return None
        if event == "line" and next(lines) == line:
            raise WriterDiedError
        return on_event

    before = sys.gettrace()
    sys.settrace(on_event)
    try:
        document.publish(data)
    except WriterDiedError:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("whole", [0, 1, 2], ids=["none before", "one before", "two before"])
def test_a_writer_dying_at_any_line_leaves_a_whole_document_and_its_successor_recovers(whole: int) -> None:
    for line in itertools.count():
        segment = Segment.create()
        writer, reader = FleetDocument(segment), FleetDocument(segment)
        for number in range(1, whole + 1):
            writer.publish(b"whole %d" % number)
        died = publish_dying_at(line, writer, b"the next")
        old = (whole, b"whole %d" % whole) if whole else None
        assert reader.read() in (old, (whole + 1, b"the next"))
        if not died:
            break
        generation = FleetDocument(segment).publish(b"recovered")
        assert reader.read() == (generation, b"recovered")
    assert line > 7


@pytest.mark.parametrize("damage", ["byte", "length", "checksum", "generation", "huge length"])
def test_a_damaged_document_is_not_read(segment: Segment, document: FleetDocument, damage: str) -> None:
    document.publish(b"precious")  # generation 1 lies in buffer 1
    head = segment.words(layout.FLEET_OFFSET + 2 * layout.CACHE_LINE_BYTES, layout.CACHE_LINE_BYTES)
    if damage == "byte":
        segment.buffer[layout.FLEET_BUFFERS_OFFSET + layout.FLEET_DOCUMENT_BYTES] ^= 1
    elif damage == "length":
        head[1] -= 1
    elif damage == "checksum":
        head[2] ^= 1
    elif damage == "generation":
        head[0] = 0
    else:
        head[1] = 2**64 - 1
    assert document.read() is None
    document.publish(b"mended")
    assert document.read() == (2, b"mended")


PUBLISH_FOREVER = """
import sys
from extproc.shm.fleet import FleetDocument
from extproc.shm.segment import Segment
document = FleetDocument(Segment.attach(int(sys.argv[1])))
while True:
    number = document.generation + 1
    document.publish(b"%d " % number * (20_000 + number % 7))
"""


def is_whole(generation: int, data: bytes) -> bool:
    return data == b"%d " % generation * (20_000 + generation % 7)


def test_writers_killed_in_the_middle_never_show_a_torn_document(segment: Segment, document: FleetDocument) -> None:
    seen = 0
    for _ in range(5):
        with python_child(PUBLISH_FOREVER, str(segment.fd), pass_fds=(segment.fd,)) as writer:
            wait_until(lambda: document.generation > seen + 50)  # noqa: B023 - called within this round
            for _ in range(300):
                found = document.read()
                if found is not None:
                    assert is_whole(*found)
                    assert found[0] >= seen
                    seen = found[0]
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        found = document.read()
        assert found is not None
        assert is_whole(*found)
        seen = found[0]
    assert document.publish(b"recovered") == seen + 1
    assert document.read() == (seen + 1, b"recovered")
