"""The places of the parts; that they start on cache lines is asserted in the module itself, on every import."""

from extproc.shm import layout
from extproc.shm.worker_table import Engine, Outcome

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


def test_the_docstring_draws_the_sizes_as_they_are() -> None:
    rows = [line.split() for line in (layout.__doc__ or "").splitlines()]
    sizes = {row[0]: row[1] for row in rows if len(row) > 1}
    of_one_number = PARTS[:-2]
    assert [sizes[f"{offset:,}"] for _, offset, _ in of_one_number] == [f"{size:,}" for _, _, size in of_one_number]


def test_the_docstring_tells_how_the_large_parts_are_divided() -> None:
    drawn = layout.__doc__ or ""
    for words in (
        f"{layout.MAX_PROCESSES} processes x {len(layout.Quantity)} quantities x {layout.MAX_WORKERS} worker slots",
        f"{layout.MAX_WORKERS} worker slots x {layout.ENGINE_ROW_NUMBERS} numbers",
        f"{layout.MAX_WORKERS} worker slots x {layout.OUTCOME_ROW_NUMBERS} numbers",
        f"{layout.MAX_PROCESSES} processes x 2 quantities x {layout.ADMISSION_MODELS} models",
        f"{layout.MAX_PROCESSES} processes x {layout.LENGTH_CLASSES} classes",
        f"{layout.MAX_PROCESSES} processes x {layout.COUNTERS} cells",
        f"{layout.MAX_PROCESSES} rows of {layout.PROCESS_ROW_WORDS} words",
    ):
        assert words in drawn


def test_rows_have_room_for_their_numbers() -> None:
    assert max(Engine) < layout.ENGINE_ROW_NUMBERS
    assert max(Outcome) < layout.OUTCOME_ROW_NUMBERS


def test_the_header_has_room_for_the_places_of_all_parts() -> None:
    words_before_the_places = 8
    assert words_before_the_places + 2 * len(layout.Part) <= layout.HEADER_BYTES // layout.WORD_BYTES
