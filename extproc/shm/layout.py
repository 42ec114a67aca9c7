"""Where everything lies in the shared segment. Nothing else knows an offset.

::

    offset      bytes
    0           256         header: magic, version, size, where the optional parts lie, ...  (segment.py)
    256         8,192       process table: 64 rows of 16 words                               (processes.py)
    8,448       8,192       counters: 64 processes x 16 cells                                (counters.py)
    16,640      2,097,152   load columns: 64 processes x 4 quantities x 1024 worker slots    (worker_table.py)
    2,113,792   131,072     engine rows: 1024 worker slots x 16 numbers                      (worker_table.py)
    2,244,864   131,072     outcome rows: 1024 worker slots x 16 numbers                     (worker_table.py)
    2,375,936   131,072     admission columns: 64 processes x 2 quantities x 128 models      (admission.py)
    2,507,008   32,768      length columns: 64 processes x 64 classes of prompt length       (lengths.py)
    2,539,776   64          fleet document: the generation in force                          (fleet.py)
    2,539,840   2 x 64      fleet document: head of either buffer
    2,539,968   2 x 1 MiB   fleet document: the two buffers
    4,640,768   configured  the optional parts, one after the other, each on a page:
                            token store (token_store.py), prefix index (index/prefix_index.py),
                            sticky map (index/sticky_map.py)

A word is an unsigned 64-bit number in the machine's own byte order, aligned to 8 bytes; a number is a signed word or a
64-bit float. Single ones are read and written only by indexing a ``memoryview`` cast to their type, many at a time by
``numpy``: both load and store eight aligned bytes at once, so none is ever seen half written. (``struct.pack_into``
with a fixed byte order stores byte by byte and is not used here.) Whatever one process writes often starts on a cache
line of its own, so processes do not slow each other down.

All processes of a service map the same segment, and two versions of this package may meet in it while an upgrade rolls
through; ``VERSION`` is raised with every change of this file, and attaching to another version is refused.
"""

from enum import IntEnum

MAGIC = int.from_bytes(b"extproc\0", "little")
VERSION = 5

WORD_BYTES = 8
CACHE_LINE_BYTES = 64
PAGE_BYTES = 4096

MAX_PROCESSES = 64
MAX_WORKERS = 1024
COUNTERS = 16
FLEET_DOCUMENT_BYTES = 1 << 20
"""Longest fleet document; there are two buffers of this size."""

SUPERVISOR_SLOT = MAX_PROCESSES - 1
"""The supervisor's own row and the name of its metric files; no child is ever given it."""

HEADER_OFFSET = 0
HEADER_BYTES = 4 * CACHE_LINE_BYTES


class Part(IntEnum):
    """The parts whose sizes are configured, in the order in which they lie; the header tells where each is."""

    TOKEN_STORE = 0
    PREFIX_INDEX = 1
    STICKY_MAP = 2


class Quantity(IntEnum):
    """What a load column holds for each worker."""

    REQUESTS = 0
    """Requests in flight."""
    DECODE_TOKENS = 1
    """Tokens that the answers of the requests in flight may have."""
    SENT_TOKENS = 2
    """Prompt tokens ever sent there. Only grows."""
    RECORDED_BLOCKS = 3
    """Blocks that the prefix index ever learned to be there. Only grows."""


PROCESS_ROW_WORDS = 16
PROCESSES_OFFSET = HEADER_OFFSET + HEADER_BYTES
PROCESSES_BYTES = MAX_PROCESSES * PROCESS_ROW_WORDS * WORD_BYTES

COUNTERS_OFFSET = PROCESSES_OFFSET + PROCESSES_BYTES
COUNTERS_BYTES = MAX_PROCESSES * COUNTERS * WORD_BYTES

LOAD_COLUMNS_OFFSET = COUNTERS_OFFSET + COUNTERS_BYTES
LOAD_COLUMNS_BYTES = MAX_PROCESSES * len(Quantity) * MAX_WORKERS * WORD_BYTES

ENGINE_ROW_NUMBERS = 16
ENGINE_ROWS_OFFSET = LOAD_COLUMNS_OFFSET + LOAD_COLUMNS_BYTES
ENGINE_ROWS_BYTES = MAX_WORKERS * ENGINE_ROW_NUMBERS * WORD_BYTES

OUTCOME_ROW_NUMBERS = 16
OUTCOME_ROWS_OFFSET = ENGINE_ROWS_OFFSET + ENGINE_ROWS_BYTES
OUTCOME_ROWS_BYTES = MAX_WORKERS * OUTCOME_ROW_NUMBERS * WORD_BYTES

ADMISSION_QUANTITIES = 2
ADMISSION_MODELS = 128
ADMISSION_OFFSET = OUTCOME_ROWS_OFFSET + OUTCOME_ROWS_BYTES
ADMISSION_BYTES = MAX_PROCESSES * ADMISSION_QUANTITIES * ADMISSION_MODELS * WORD_BYTES

LENGTH_CLASSES = 64
LENGTHS_OFFSET = ADMISSION_OFFSET + ADMISSION_BYTES
LENGTHS_BYTES = MAX_PROCESSES * LENGTH_CLASSES * WORD_BYTES

FLEET_OFFSET = LENGTHS_OFFSET + LENGTHS_BYTES
FLEET_HEAD_WORDS = CACHE_LINE_BYTES // WORD_BYTES
FLEET_BUFFERS = 2
FLEET_HEADS_BYTES = (1 + FLEET_BUFFERS) * CACHE_LINE_BYTES
FLEET_BUFFERS_OFFSET = FLEET_OFFSET + FLEET_HEADS_BYTES

SEGMENT_BYTES = -(-(FLEET_BUFFERS_OFFSET + FLEET_BUFFERS * FLEET_DOCUMENT_BYTES) // PAGE_BYTES) * PAGE_BYTES
"""A segment without optional parts."""

for _offset in (
    PROCESSES_OFFSET, COUNTERS_OFFSET, LOAD_COLUMNS_OFFSET, ENGINE_ROWS_OFFSET, OUTCOME_ROWS_OFFSET, ADMISSION_OFFSET,
    LENGTHS_OFFSET, FLEET_OFFSET, FLEET_BUFFERS_OFFSET,
):  # fmt: skip
    assert _offset % CACHE_LINE_BYTES == 0, "every part starts on a cache line"
    assert f"\n    {_offset:,} " in __doc__, "the drawing above is out of date"
for _row_bytes in (
    PROCESS_ROW_WORDS * WORD_BYTES,
    COUNTERS * WORD_BYTES,
    len(Quantity) * MAX_WORKERS * WORD_BYTES,
    ENGINE_ROW_NUMBERS * WORD_BYTES,
    OUTCOME_ROW_NUMBERS * WORD_BYTES,
    ADMISSION_QUANTITIES * ADMISSION_MODELS * WORD_BYTES,
    LENGTH_CLASSES * WORD_BYTES,
):
    assert _row_bytes % CACHE_LINE_BYTES == 0, "what one process writes shares no cache line with another's"
assert f"\n    {SEGMENT_BYTES:,} " in __doc__, "the drawing above is out of date"
