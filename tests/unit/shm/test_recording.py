"""The order to record, between processes."""

import os

from extproc.shm.layout import Part
from extproc.shm.recording import Order, RecordingOrder
from extproc.shm.segment import Segment
from tests.support.processes import python_child
from tests.support.segments import mapped

BIGGEST = (1 << 64) - 1


def test_there_is_none_until_one_is_given() -> None:
    order = RecordingOrder(mapped())
    assert (order.until_ns, order.read()) == (0, Order(0, 0, 0, 0))


def test_all_mappings_see_the_order_and_its_end() -> None:
    segment = Segment.create()
    code = (
        "import sys; from extproc.shm.recording import *; from extproc.shm.segment import Segment\n"
        f"RecordingOrder(Segment.attach(int(sys.argv[1]))).give(Order(5, 6, {BIGGEST}, 8))"
    )
    order = RecordingOrder(segment)
    with python_child(code, str(segment.fd), pass_fds=(segment.fd,)) as child:
        assert child.wait() == 0
    assert (order.until_ns, order.read()) == (5, Order(5, 6, BIGGEST, 8))
    order.end()
    attached = Segment.attach(os.dup(segment.fd))
    assert RecordingOrder(attached).read() == Order(0, 6, BIGGEST, 8)
    attached.close()
    segment.close()


def test_the_places_of_the_parts_are_not_touched() -> None:
    segment = mapped(dict.fromkeys(Part, 4096))
    RecordingOrder(segment).give(Order(BIGGEST, BIGGEST, BIGGEST, BIGGEST))
    assert [len(segment.part(part)) for part in Part] == [4096] * len(Part)
