import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.shm.layout import LENGTH_CLASSES, MAX_PROCESSES
from extproc.shm.lengths import LengthColumns, class_of, lower_bound
from tests.support.segments import mapped

LAST = LENGTH_CLASSES - 1


@given(st.integers(1, 1 << 40))
def test_a_length_lies_in_its_class_and_below_the_next(tokens: int) -> None:
    length_class = class_of(tokens)
    assert lower_bound(length_class) <= tokens
    assert tokens < lower_bound(length_class + 1) or length_class == LAST


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40))
def test_longer_prompts_have_no_lower_class(one: int, other: int) -> None:
    assert class_of(min(one, other)) <= class_of(max(one, other))


def test_the_shortest_length_of_a_class_is_in_it() -> None:
    bounds = [lower_bound(length_class) for length_class in range(LENGTH_CLASSES)]
    whole = [length_class for length_class, bound in enumerate(bounds) if bound == int(bound)]
    assert len(whole) > 50
    assert [class_of(int(bounds[length_class])) for length_class in whole] == whole
    assert bounds == sorted(set(bounds))


@pytest.mark.parametrize("tokens", [-5, 0, 1])
def test_there_is_no_class_below_the_first(tokens: int) -> None:
    assert class_of(tokens) == 0


def test_a_quarter_of_an_octave_is_a_class() -> None:
    assert [class_of(tokens) - class_of(1024) for tokens in (1279, 1280, 1536, 1792, 2048)] == [0, 1, 2, 3, 4]


def test_the_last_class_holds_everything_longer() -> None:
    assert class_of(int(lower_bound(LAST)) - 1) == LAST - 1
    assert class_of(int(lower_bound(LAST))) == class_of(10_000_000) == LAST


@given(st.lists(st.tuples(st.integers(0, MAX_PROCESSES - 1), st.integers(0, 100_000)), max_size=50))
def test_totals_are_the_tokens_of_all_processes_by_class(sent: list[tuple[int, int]]) -> None:
    segment = mapped()
    expected = np.zeros(LENGTH_CLASSES, dtype=np.int64)
    for process, tokens in sent:
        LengthColumns(segment, process_slot=process).add(tokens)
        expected[class_of(tokens)] += tokens
    assert LengthColumns(segment, process_slot=0).totals().tolist() == expected.tolist()


def test_columns_lie_side_by_side() -> None:
    segment = mapped()
    columns = [LengthColumns(segment, process_slot=process) for process in range(MAX_PROCESSES)]
    for own in columns:
        own.add(1)
        own.add(1 << 30)
    totals = columns[0].totals()
    assert (totals[0], totals[LAST]) == (MAX_PROCESSES, MAX_PROCESSES << 30)
    assert np.count_nonzero(totals) == 2
