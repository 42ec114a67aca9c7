"""The table of rows on its own."""

import numpy as np
import pytest

from extproc.shm.token_rows import ROW_BYTES, WAYS, Row, RowTable


def test_the_rows_of_a_large_table_are_estimated() -> None:
    memory = memoryview(bytearray((1 << 19) * ROW_BYTES))
    table = RowTable(memory=memory, claims=np.array([7], dtype=np.uint64))
    keys = np.random.default_rng(1).integers(0, 1 << 63, size=(50_000, 2), dtype=np.uint64)
    table.put(7, 0, (((first, second), 1, 1) for first, second in keys.tolist()))
    assert table.capacity == 1 << 19
    assert table.count() == pytest.approx(len(keys), rel=0.03)


def small_table() -> RowTable:
    """A table of one set."""
    return RowTable(memory=memoryview(bytearray(WAYS * ROW_BYTES)), claims=np.array([7], dtype=np.uint64))


def test_rows_that_are_stored_together_lead_to_one_place() -> None:
    table = small_table()
    table.put(7, 64, [((1, number), number, 10 * number) for number in range(WAYS)])
    assert [table.find((1, number)) for number in range(WAYS)] == [
        Row(7, 64, number, 10 * number) for number in range(WAYS)
    ]


def test_a_row_takes_the_place_of_its_key_or_else_of_the_least_recently_used() -> None:
    table = small_table()
    table.put(7, 0, [((1, number), 5, 5) for number in range(WAYS)])
    table.put(7, 0, [((1, 2), 6, 6)])
    assert [table.find((1, number)) for number in range(WAYS)] == [
        Row(7, 0, 6 if number == 2 else 5, 6 if number == 2 else 5) for number in range(WAYS)
    ]
    table.find((1, 0))
    table.put(7, 0, [((1, 9), 5, 5)])
    assert [number for number in range(WAYS) if table.find((1, number)) is None] == [1]


@pytest.mark.parametrize("word", [3, 4, 5], ids=["place", "size", "check"])
def test_a_row_that_is_written_over_in_part_is_not_found(word: int) -> None:
    table = small_table()
    table.put(7, 0, [((1, 1), 5, 5)])
    assert table.find((1, 1)) is not None
    table._table[0, 0, word] += 1
    assert table.find((1, 1)) is None
