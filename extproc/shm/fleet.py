"""The fleet document: what the observer knows, handed to every router.

::

    head         word 0  generation in force: number of the last whole document; 0: none yet
    buffer head  word 0  generation of the document in this buffer; 0 while it is being written
    (two)        word 1  its length, bytes
                 word 2  its checksum: CRC-32 over the bytes, seeded with the generation
    buffer       the bytes
    (two)

    generation in force   1   2   3   4   ...
    lies in buffer        1   0   1   0   ...

One writer, the observer; everybody reads; nobody waits. Document ``g`` is written into buffer ``g % 2``, which is not
the one in force, and put in force by one last store of eight bytes. A writer killed anywhere before that store leaves
the document in force untouched, and the next writer begins the same generation afresh. Killed after it, it was done.

A torn read: a reader may be so slow that the writer finishes the next document and begins the one after it, in the
buffer being read. The reader compares the generation of the buffer before and after copying, and the checksum of the
copy, so it finds out and returns nothing; the caller keeps the fleet it has and tries again on the next request. The
checksum also covers processors that let one core see another's stores in a different order: seeded with the generation,
it never matches the bytes of another document, save by a chance of one in four thousand million.

Two observers must never run at once; the supervisor sees to that (an observer is reaped before its successor starts).
"""

import zlib

from extproc.shm.layout import (
    CACHE_LINE_BYTES,
    FLEET_BUFFERS,
    FLEET_BUFFERS_OFFSET,
    FLEET_DOCUMENT_BYTES,
    FLEET_OFFSET,
)
from extproc.shm.segment import Segment

_GENERATION, _LENGTH, _CHECKSUM = range(3)
_CRC_MASK = 0xFFFF_FFFF


class FleetDocument:
    """The published document, for its writer and for its readers."""

    def __init__(self, segment: Segment) -> None:
        self._head = segment.words(FLEET_OFFSET, CACHE_LINE_BYTES)
        self._heads = tuple(
            segment.words(FLEET_OFFSET + (1 + buffer) * CACHE_LINE_BYTES, CACHE_LINE_BYTES)
            for buffer in range(FLEET_BUFFERS)
        )
        self._buffers = tuple(
            segment.buffer[start : start + FLEET_DOCUMENT_BYTES]
            for start in (FLEET_BUFFERS_OFFSET + buffer * FLEET_DOCUMENT_BYTES for buffer in range(FLEET_BUFFERS))
        )

    @property
    def generation(self) -> int:
        """Number of the last whole document, 0 before the first. Cheap: one memory access."""
        return self._head[_GENERATION]

    def publish(self, data: bytes) -> int:
        """Put a document in force and return its generation. Only one process may do so.

        Raises ``ValueError`` when it is longer than ``FLEET_DOCUMENT_BYTES``; the last one stays in force.
        """
        if len(data) > FLEET_DOCUMENT_BYTES:
            raise ValueError(f"the fleet document has {len(data):,} bytes, at most {FLEET_DOCUMENT_BYTES:,} fit")
        generation = self._head[_GENERATION] + 1
        head = self._heads[generation % FLEET_BUFFERS]
        head[_GENERATION] = 0
        self._buffers[generation % FLEET_BUFFERS][: len(data)] = data
        head[_LENGTH] = len(data)
        head[_CHECKSUM] = zlib.crc32(data, generation & _CRC_MASK)
        head[_GENERATION] = generation
        self._head[_GENERATION] = generation
        return generation

    def read(self) -> tuple[int, bytes] | None:
        """Return the generation and the bytes of the document in force.

        ``None``: nothing was published yet, or it was replaced while being read. Keep what you have, call again later.
        """
        generation = self._head[_GENERATION]
        head = self._heads[generation % FLEET_BUFFERS]
        length = head[_LENGTH]
        if generation == 0 or head[_GENERATION] != generation or length > FLEET_DOCUMENT_BYTES:
            return None
        data = bytes(self._buffers[generation % FLEET_BUFFERS][:length])
        if head[_GENERATION] != generation or zlib.crc32(data, generation & _CRC_MASK) != head[_CHECKSUM]:
            return None
        return generation, data
