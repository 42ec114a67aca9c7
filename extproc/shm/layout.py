"""Where everything lies in the shared segment. Nothing else knows an offset.

::

    offset      bytes
    0           64          header: magic, version, size of the segment
    64          8,192       process table: 64 rows of 16 words                         (processes.py)
    8,256       8,192       counters: 64 processes x 16 cells                          (counters.py)
    16,448      524,288     requests in flight: 64 processes x 1024 worker slots       (inflight.py)
    540,736     64          fleet document: the generation in force                    (fleet.py)
    540,800     2 x 64      fleet document: head of either buffer
    540,928     2 x 1 MiB   fleet document: the two buffers
    2,641,920   configured  token store, if there is one                               (token_store.py)

A word is an unsigned 64-bit number in the machine's own byte order, aligned to 8 bytes. Words are read and written only
by indexing a ``memoryview`` cast to ``"Q"``: that is one load or store of eight bytes, so a word is never seen half
written. (``struct.pack_into`` with a fixed byte order stores byte by byte and is not used here.) Whatever one process
writes often starts on a cache line of its own, so processes do not slow each other down.

All processes of a service map the same segment, and two versions of this package may meet in it while an upgrade rolls
through; ``VERSION`` is raised with every change of this file, and attaching to another version is refused.
"""

MAGIC = int.from_bytes(b"extproc\0", "little")
VERSION = 2

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
HEADER_BYTES = CACHE_LINE_BYTES

PROCESS_ROW_WORDS = 16
PROCESSES_OFFSET = HEADER_OFFSET + HEADER_BYTES
PROCESSES_BYTES = MAX_PROCESSES * PROCESS_ROW_WORDS * WORD_BYTES

COUNTERS_OFFSET = PROCESSES_OFFSET + PROCESSES_BYTES
COUNTERS_BYTES = MAX_PROCESSES * COUNTERS * WORD_BYTES

IN_FLIGHT_OFFSET = COUNTERS_OFFSET + COUNTERS_BYTES
IN_FLIGHT_BYTES = MAX_PROCESSES * MAX_WORKERS * WORD_BYTES

FLEET_OFFSET = IN_FLIGHT_OFFSET + IN_FLIGHT_BYTES
FLEET_HEAD_WORDS = CACHE_LINE_BYTES // WORD_BYTES
FLEET_BUFFERS = 2
FLEET_HEADS_BYTES = (1 + FLEET_BUFFERS) * CACHE_LINE_BYTES
FLEET_BUFFERS_OFFSET = FLEET_OFFSET + FLEET_HEADS_BYTES

SEGMENT_BYTES = -(-(FLEET_BUFFERS_OFFSET + FLEET_BUFFERS * FLEET_DOCUMENT_BYTES) // PAGE_BYTES) * PAGE_BYTES
"""A segment without a token store."""

TOKEN_STORE_OFFSET = SEGMENT_BYTES

for _offset in (PROCESSES_OFFSET, COUNTERS_OFFSET, IN_FLIGHT_OFFSET, FLEET_OFFSET, FLEET_BUFFERS_OFFSET):
    assert _offset % CACHE_LINE_BYTES == 0, "every part starts on a cache line"
assert PROCESS_ROW_WORDS * WORD_BYTES % CACHE_LINE_BYTES == 0, "a row shares no cache line with another"
assert COUNTERS * WORD_BYTES % CACHE_LINE_BYTES == 0, "the cells of a process share no cache line with another's"
assert MAX_WORKERS * WORD_BYTES % CACHE_LINE_BYTES == 0, "a column shares no cache line with another"
for _offset in (FLEET_BUFFERS_OFFSET, TOKEN_STORE_OFFSET):
    assert f"\n    {_offset:,} " in __doc__, "the drawing above is out of date"
