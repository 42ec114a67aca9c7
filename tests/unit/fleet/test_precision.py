"""How well predictions come true, as a number that all processes share."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.fleet.precision import Precisions, agreement
from extproc.shm.worker_table import Outcome, WorkerTable
from tests.support.segments import mapped

SLOT = 1023


class Shared:
    """The rows of one worker, and its neighbours."""

    def __init__(self) -> None:
        self.table = WorkerTable(mapped())
        self.precisions = Precisions(self.table)

    def learned(self, *agreed: float) -> float:
        for one in agreed:
            self.precisions.learn(SLOT, one)
        return float(self.table.outcomes[SLOT, Outcome.PRECISION])


@pytest.mark.parametrize(
    ("predicted", "reported", "agreed"),
    [(0, 0, 1), (160, 160, 1), (160, 0, 0), (0, 160, 0), (16, 0, 0), (160, 80, 0.5), (80, 160, 0.5), (0, 8, 0.5)],
)
def test_agreement_is_the_share_that_both_say(predicted: int, reported: int, agreed: float) -> None:
    assert agreement(predicted, reported, block_size=16) == agreed


@given(st.integers(0, 1 << 20), st.integers(0, 1 << 20), st.integers(1, 1024))
def test_agreement_is_between_none_and_all(predicted: int, reported: int, block_size: int) -> None:
    agreed = agreement(predicted, reported, block_size=block_size)
    assert 0 <= agreed <= 1
    assert (agreed == 1) == (predicted == reported)


def test_the_first_comparisons_count_alike_and_later_ones_a_thirty_second() -> None:
    shared = Shared()
    assert shared.learned(1) == 1
    assert shared.learned(0) == pytest.approx(0.5)
    assert shared.learned(1, 1) == pytest.approx(0.75)
    assert shared.learned(*[1] * 60) > 0.95
    before = shared.learned(1)
    assert shared.learned(0) == pytest.approx(before * 31 / 32)
    assert shared.table.outcomes[SLOT, Outcome.PRECISION_SAMPLES] == 66


def test_no_agreement_at_all_is_not_the_same_as_not_known() -> None:
    assert 0 < Shared().learned(0, 0, 0) < 1e-6


def test_after_the_observer_has_set_it_back_it_begins_anew() -> None:
    shared = Shared()
    shared.learned(*[0] * 40)
    shared.table.outcomes[SLOT, [Outcome.PRECISION, Outcome.PRECISION_SAMPLES]] = 0
    assert shared.learned(1) == 1


def test_other_numbers_and_other_workers_are_not_touched() -> None:
    shared = Shared()
    shared.learned(1)
    shared.table.outcomes[SLOT, [Outcome.PRECISION, Outcome.PRECISION_SAMPLES]] = 0
    assert not shared.table.outcomes.any()
