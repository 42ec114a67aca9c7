import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.shm.counters import SharedCounter
from extproc.shm.layout import COUNTERS, COUNTERS_BYTES, COUNTERS_OFFSET, MAX_PROCESSES
from extproc.shm.segment import Segment
from tests.support.processes import python_child
from tests.support.segments import mapped


@given(st.lists(st.integers(0, MAX_PROCESSES - 1), max_size=50))
def test_processes_taking_turns_count_one_after_the_other(turns: list[int]) -> None:
    segment = mapped()
    counters = {slot: SharedCounter(segment, counter=3, process_slot=slot) for slot in turns}
    assert [counters[slot].next() for slot in turns] == list(range(len(turns)))


def test_counters_do_not_touch_each_other() -> None:
    segment = mapped()
    for counter in range(COUNTERS):
        SharedCounter(segment, counter=counter, process_slot=0).next()
    assert [SharedCounter(segment, counter=counter, process_slot=1).next() for counter in range(COUNTERS)] == [1] * 16


def test_a_successor_in_the_slot_goes_on() -> None:
    segment = mapped()
    SharedCounter(segment, counter=0, process_slot=5).next()
    assert SharedCounter(segment, counter=0, process_slot=5).next() == 1


def test_a_cell_wraps_instead_of_failing() -> None:
    segment = mapped()
    segment.words(COUNTERS_OFFSET, COUNTERS_BYTES)[0] = 2**64 - 1
    counter = SharedCounter(segment, counter=0, process_slot=0)
    assert [counter.next(), counter.next()] == [2**64 - 1, 0]


@pytest.mark.parametrize(("counter", "slot"), [(COUNTERS, 0), (-1, 0), (0, MAX_PROCESSES), (0, -1)])
def test_a_cell_that_does_not_exist_is_refused(counter: int, slot: int) -> None:
    with pytest.raises(ValueError, match="no counter"):
        SharedCounter(mapped(), counter=counter, process_slot=slot)


COUNT = """
import sys
from extproc.shm.counters import SharedCounter
from extproc.shm.segment import Segment
counter = SharedCounter(Segment.attach(int(sys.argv[1])), counter=0, process_slot=int(sys.argv[2]))
for _ in range(5000):
    counter.next()
"""


def test_no_count_is_lost_between_processes() -> None:
    segment = Segment.create()
    fds = (segment.fd,)
    with (
        python_child(COUNT, str(segment.fd), "1", pass_fds=fds) as one,
        python_child(COUNT, str(segment.fd), "2", pass_fds=fds) as two,
    ):
        assert (one.wait(), two.wait()) == (0, 0)
    assert SharedCounter(segment, counter=0, process_slot=0).next() == 10_000
    segment.close()
