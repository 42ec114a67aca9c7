from extproc.shm import layout

PARTS = (
    ("header", layout.HEADER_OFFSET, layout.HEADER_BYTES),
    ("processes", layout.PROCESSES_OFFSET, layout.PROCESSES_BYTES),
    ("counters", layout.COUNTERS_OFFSET, layout.COUNTERS_BYTES),
    ("load columns", layout.LOAD_COLUMNS_OFFSET, layout.LOAD_COLUMNS_BYTES),
    ("engine rows", layout.ENGINE_ROWS_OFFSET, layout.ENGINE_ROWS_BYTES),
    ("outcome rows", layout.OUTCOME_ROWS_OFFSET, layout.OUTCOME_ROWS_BYTES),
    ("admission columns", layout.ADMISSION_OFFSET, layout.ADMISSION_BYTES),
    ("length columns", layout.LENGTHS_OFFSET, layout.LENGTHS_BYTES),
    ("fleet heads", layout.FLEET_OFFSET, layout.FLEET_HEADS_BYTES),
    ("fleet buffers", layout.FLEET_BUFFERS_OFFSET, layout.FLEET_BUFFERS * layout.FLEET_DOCUMENT_BYTES),
)


def test_the_parts_fill_the_segment_without_gap_or_overlap() -> None:
    end = 0
    for name, offset, length in PARTS:
        assert (name, offset) == (name, end)
        end = offset + length
    assert 0 <= layout.SEGMENT_BYTES - end < layout.PAGE_BYTES
    assert layout.SEGMENT_BYTES % layout.PAGE_BYTES == 0


def test_the_docstring_draws_the_offsets_as_they_are() -> None:
    drawn = layout.__doc__ or ""
    for _, offset, _ in PARTS:
        assert f"\n    {offset:,} " in drawn
