"""Columns against a model, rows, and what a reader may count on while others write."""

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.shm.layout import MAX_PROCESSES, MAX_WORKERS, Quantity
from extproc.shm.segment import Segment
from extproc.shm.worker_table import Engine, Outcome, WorkerTable
from tests.support.segments import mapped


class Sent(NamedTuple):
    tokens: int
    blocks: int


IN_FLIGHT = (Quantity.REQUESTS, Quantity.DECODE_TOKENS)
PROCESSES = st.sampled_from((0, 1, 7, MAX_PROCESSES - 1))
WORKERS = st.sampled_from((0, 1, 500, MAX_WORKERS - 1))
CHANGES = st.tuples(st.integers(-3, 5), st.integers(-300, 500))
SENT = st.builds(Sent, st.integers(0, 9000), st.integers(0, 500))
OPERATIONS = st.lists(
    st.tuples(PROCESSES, WORKERS, CHANGES | st.none() | SENT),
    max_size=60,
)


def new_table() -> WorkerTable:
    return WorkerTable(mapped())


@pytest.fixture
def table() -> WorkerTable:
    return new_table()


class Columns:
    """The columns as a dictionary."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[int, Quantity, int], int] = {}

    def add(self, process: int, worker: int, changes: tuple[int, int]) -> None:
        for quantity, change in zip(IN_FLIGHT, changes, strict=True):
            place = (process, quantity, worker)
            self.numbers[place] = max(self.numbers.get(place, 0) + change, 0)

    def note_sent(self, process: int, worker: int, sent: Sent) -> None:
        for quantity, change in zip((Quantity.SENT_TOKENS, Quantity.RECORDED_BLOCKS), sent, strict=True):
            place = (process, quantity, worker)
            self.numbers[place] = self.numbers.get(place, 0) + change

    def clear(self, process: int) -> None:
        self.numbers = {
            place: number for place, number in self.numbers.items() if place[0] != process or place[1] not in IN_FLIGHT
        }

    def total(self, quantity: Quantity, worker: int) -> int:
        return sum(number for place, number in self.numbers.items() if place[1:] == (quantity, worker))


@settings(deadline=None)
@given(OPERATIONS)
def test_every_total_is_the_sum_over_processes(
    operations: list[tuple[int, int, tuple[int, int] | Sent | None]],
) -> None:
    """Any operations in any order; what only grows never falls, not even when a process dies."""
    table = new_table()
    model = Columns()
    for process, worker, change in operations:
        before = table.sums(MAX_WORKERS)
        column = table.column(process)
        if change is None:
            table.clear_column(process)
            model.clear(process)
        elif isinstance(change, Sent):
            column.note_sent(worker, tokens=change.tokens, blocks=change.blocks)
            model.note_sent(process, worker, change)
        else:
            column.add(worker, requests=change[0], decode_tokens=change[1])
            model.add(process, worker, change)
        after = table.sums(MAX_WORKERS)
        assert (after[Quantity.SENT_TOKENS :] >= before[Quantity.SENT_TOKENS :]).all()
        assert (after >= 0).all()
    expected = np.zeros((len(Quantity), MAX_WORKERS), dtype=np.int64)
    for _, quantity, worker in model.numbers:
        expected[quantity, worker] = model.total(quantity, worker)
    assert np.array_equal(table.sums(MAX_WORKERS), expected)
    assert np.array_equal(table.sums(501), expected[:, :501])
    assert all(np.array_equal(table.totals(quantity), expected[quantity]) for quantity in Quantity)
    assert table.in_flight() == expected[Quantity.REQUESTS].tolist()
    assert [table.requests_at(worker) for worker in range(MAX_WORKERS)] == table.in_flight()


def test_all_processes_and_all_workers_fit(table: WorkerTable) -> None:
    """Every process, its last worker included, and no two numbers in one place."""
    for process in range(MAX_PROCESSES):
        column = table.column(process)
        for worker in (0, process, MAX_WORKERS - 1):
            column.add(worker, requests=1, decode_tokens=10)
            column.note_sent(worker, tokens=100, blocks=1000)
    expected = np.zeros(MAX_WORKERS, dtype=np.int64)
    expected[:MAX_PROCESSES] = 1
    expected[[0, MAX_WORKERS - 1]] += MAX_PROCESSES
    assert [table.totals(quantity).tolist() for quantity in Quantity] == [
        (expected * weight).tolist() for weight in (1, 10, 100, 1000)
    ]


@pytest.mark.parametrize("slot", [-1, MAX_PROCESSES])
def test_there_is_no_column_for_a_process_that_cannot_be(table: WorkerTable, slot: int) -> None:
    with pytest.raises(ValueError, match="no column"):
        table.column(slot)


def test_a_release_too_many_stops_at_zero(table: WorkerTable) -> None:
    column = table.column(2)
    column.add(7, requests=1)
    column.add(7, requests=-1)
    column.add(7, requests=-1)
    column.add(7, requests=1)
    assert (column.requests(7), table.requests_at(7)) == (1, 1)


def test_a_process_sees_its_own_requests_apart(table: WorkerTable) -> None:
    table.column(2).add(7, requests=3)
    table.column(3).add(7, requests=4)
    assert (table.column(2).requests(7), table.column(3).requests(7), table.requests_at(7)) == (3, 4, 7)


def test_another_mapping_sees_the_same_counts() -> None:
    segment = Segment.create()
    WorkerTable(segment).column(MAX_PROCESSES - 1).add(MAX_WORKERS - 1, requests=4)
    attached = Segment.attach(segment.fd)
    assert WorkerTable(attached).requests_at(MAX_WORKERS - 1) == 4
    attached.close()


def test_nothing_is_counted_before_there_is_a_column(table: WorkerTable) -> None:
    assert table.requests_at(5) == 0
    assert not table.sums(10).any()
    assert not any(table.in_flight())


def test_clearing_a_column_touches_no_other_process(table: WorkerTable) -> None:
    for process in (4, 5, 6):
        table.column(process).add(9, requests=1, decode_tokens=3)
        table.column(process).note_sent(9, tokens=4, blocks=5)
    table.clear_column(5)
    assert table.sums(10)[:, 9].tolist() == [2, 6, 12, 15]
    assert [table.column(process).requests(9) for process in (4, 5, 6)] == [1, 0, 1]


def test_a_worker_slot_past_the_end_is_an_error_and_touches_no_other_column(table: WorkerTable) -> None:
    with pytest.raises(IndexError):
        table.column(0).add(MAX_WORKERS * len(Quantity), requests=1)
    assert not any(table.in_flight())


def test_a_slot_that_is_given_to_another_worker_starts_with_nothing_known(table: WorkerTable) -> None:
    for slot in (3, 4):
        table.column(0).note_sent(slot, tokens=10, blocks=20)
        table.column(1).note_sent(slot, tokens=10, blocks=2)
        table.engines[slot] = 7.0
        table.outcomes[slot] = 8.0
    changes = table.breaker_changes
    table.reset_rows(3)
    row = table.row(3, now=0.0)
    assert row.engine.pop("recorded_before") == 22
    assert not any(row.engine.values())
    assert not any(row.outcome.values())
    assert table.breaker_changes != changes
    assert (table.engines[4] == 7.0).all()
    assert (table.outcomes[4] == 8.0).all()


def test_an_emptied_cache_is_counted_from_there(table: WorkerTable) -> None:
    table.column(0).note_sent(3, tokens=10, blocks=20)
    table.engines[3, Engine.KV_USAGE] = 0.5
    table.note_emptied(3)
    table.column(5).note_sent(3, tokens=10, blocks=2)
    recorded = table.totals(Quantity.RECORDED_BLOCKS)[3] - table.engines[3, Engine.RECORDED_BEFORE]
    assert recorded == 2
    assert table.engines[3, Engine.KV_USAGE] == 0.5


def test_a_row_for_people_names_every_number(table: WorkerTable) -> None:
    table.column(0).add(MAX_WORKERS - 1, requests=1, decode_tokens=3)
    for number in Engine:
        table.engines[MAX_WORKERS - 1, number] = 10.0 + number
    for learned in Outcome:
        table.outcomes[MAX_WORKERS - 1, learned] = 100.0 + learned
    row = table.row(MAX_WORKERS - 1, now=107.0)
    assert (row.requests, row.prefill_secs, row.decode_tokens) == (1, 2.0, 3)
    assert table.row(MAX_WORKERS - 1, now=1000.0).prefill_secs == 0
    assert row.engine == {number.name.lower(): 10.0 + number for number in Engine}
    assert row.outcome == {number.name.lower(): 100.0 + number for number in Outcome}


def test_single_numbers_and_rows_are_the_same_memory(table: WorkerTable) -> None:
    table.outcome_numbers[3 * table.outcomes.shape[1] + Outcome.LONE_SECS] = 1.5
    assert table.outcomes[3, Outcome.LONE_SECS] == 1.5
    assert np.count_nonzero(table.outcomes) == 1


def test_a_breaker_change_is_seen_through_another_mapping() -> None:
    segment = Segment.create()
    one, other = WorkerTable(segment), WorkerTable(Segment.attach(segment.fd))
    before = other.breaker_changes
    one.note_breaker_change()
    assert other.breaker_changes != before
    segment.close()
