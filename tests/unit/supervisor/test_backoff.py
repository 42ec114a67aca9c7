from hypothesis import given
from hypothesis import strategies as st

from extproc.supervisor.backoff import Backoff


def backoff(first_secs: float = 0.1, longest_secs: float = 1.0) -> Backoff:
    return Backoff(first_secs=first_secs, longest_secs=longest_secs, settled_secs=10.0)


def test_waits_double_up_to_the_longest() -> None:
    waits = backoff()
    assert [waits.after_death(ready_for_secs=0.0) for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_a_process_that_was_ready_for_long_begins_a_new_row() -> None:
    waits = backoff()
    lives = (0.0, 0.0, 9.9, 10.0, 0.0)
    assert [waits.after_death(ready_for_secs=life) for life in lives] == [0.1, 0.2, 0.4, 0.1, 0.2]


def test_reset_begins_a_new_row() -> None:
    waits = backoff()
    waits.after_death(ready_for_secs=0.0)
    waits.reset()
    assert waits.after_death(ready_for_secs=0.0) == 0.1


def test_without_a_first_wait_there_is_none_at_all() -> None:
    waits = backoff(first_secs=0.0)
    assert [waits.after_death(ready_for_secs=0.0) for _ in range(3)] == [0.0] * 3


@given(st.lists(st.floats(0, 9.99)), st.floats(0, 60), st.floats(0, 600))
def test_waits_never_fall_in_a_row_of_deaths_nor_exceed_the_longest(
    lives: list[float], first_secs: float, longest_secs: float
) -> None:
    waits = backoff(first_secs, longest_secs)
    row = [waits.after_death(ready_for_secs=life) for life in lives]
    assert row == sorted(row)
    assert all(wait <= longest_secs for wait in row)
