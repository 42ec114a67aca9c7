"""The table of rows on its own."""

import numpy as np
import pytest

from extproc.shm.token_rows import ROW_BYTES, Row, RowTable


def test_the_rows_of_a_large_table_are_estimated() -> None:
    memory = memoryview(bytearray((1 << 19) * ROW_BYTES))
    table = RowTable(memory=memory, claims=np.array([7], dtype=np.uint64))
    keys = np.random.default_rng(1).integers(0, 1 << 63, size=(50_000, 2), dtype=np.uint64)
    for first, second in keys.tolist():
        table.put((first, second), Row(7, 0, 1, 1))
    assert table.capacity == 1 << 19
    assert table.count() == pytest.approx(len(keys), rel=0.03)
