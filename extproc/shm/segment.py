"""The one piece of memory that all processes of a service share.

It is anonymous (``memfd``): it has no name, so there is nothing to unlink, nothing to find for another user and nothing
left when the last process is gone. It is inherited by descriptor number.

The header is written before any child exists and, but for what others write as it says, never again::

    word 0      magic "extproc"
    word 1      version of the layout
    word 2      size of the segment, bytes
    word 3      load columns that were ever in use (worker_table.py); written by the supervisor
    word 4      time of the last change of a breaker; written by any router
    word 8 + 2p offset of optional part p, and after it its length, bytes; 0 when there is none
    word 24     what to record, four words (recording.py); written by the observer
"""

import fcntl
import mmap
import os
from collections.abc import Mapping
from typing import Self

from extproc.errors import StartupError
from extproc.shm.layout import HEADER_BYTES, HEADER_OFFSET, MAGIC, PAGE_BYTES, SEGMENT_BYTES, VERSION, Part

COLUMNS_WORD, BREAKERS_WORD = 3, 4
_PARTS_WORD = 8
RECORDING_WORD = 24
assert _PARTS_WORD + 2 * len(Part) <= RECORDING_WORD, "the parts have room"


class Segment:
    """A mapping of the shared memory, and the descriptor by which a child inherits it."""

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.buffer = memoryview(mmap.mmap(fd, size))

    @classmethod
    def create(cls, parts: Mapping[Part, int] | None = None) -> Self:
        """Make a segment of zeros with a valid header, with the optional ``parts`` of these sizes in bytes.

        Its size is sealed: a process that shrank it would kill the others with SIGBUS. The descriptor is closed on
        ``exec`` unless it is named in ``pass_fds``. Raises ``OSError`` when the system has no memory or descriptor.
        """
        places = {}
        size = SEGMENT_BYTES
        for part, length in sorted((parts or {}).items()):
            places[part] = (size, length)
            size += -(-length // PAGE_BYTES) * PAGE_BYTES
        fd = os.memfd_create("extproc", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            segment = cls(fd, size)
        except OSError:
            os.close(fd)
            raise
        header = segment.words(HEADER_OFFSET, HEADER_BYTES)
        header[0], header[1], header[2] = MAGIC, VERSION, size
        for part, (offset, length) in places.items():
            header[_PARTS_WORD + 2 * part], header[_PARTS_WORD + 2 * part + 1] = offset, length
        return segment

    @classmethod
    def attach(cls, fd: int) -> Self:
        """Map a segment inherited from the parent; the descriptor belongs to the result.

        Raises ``StartupError`` when it is no segment of this version of the layout.
        """
        try:
            size = os.fstat(fd).st_size
            if size < SEGMENT_BYTES:
                raise StartupError(f"descriptor {fd} is no shared segment: {size} bytes, expected {SEGMENT_BYTES}")
            segment = cls(fd, size)
        except OSError as error:
            raise StartupError(f"cannot map the shared segment at descriptor {fd}: {error}") from error
        found = segment.words(HEADER_OFFSET, HEADER_BYTES)[:3].tolist()
        if found != [MAGIC, VERSION, size]:
            raise StartupError(
                f"descriptor {fd} is no shared segment of version {VERSION} "
                f"(magic {found[0]:#x}, version {found[1]}, {found[2]} of {size} bytes)"
            )
        return segment

    def words(self, offset: int, length: int) -> memoryview:
        """Return a writable view of the 64-bit words from ``offset``; both arguments are in bytes."""
        return self.buffer[offset : offset + length].cast("Q")

    def part(self, part: Part) -> memoryview:
        """Return the memory of an optional part; empty when there is none."""
        header = self.words(HEADER_OFFSET, HEADER_BYTES)
        offset, length = header[_PARTS_WORD + 2 * part], header[_PARTS_WORD + 2 * part + 1]
        return self.buffer[offset : offset + length]

    def close(self) -> None:
        """Close the descriptor.

        The memory stays mapped until the last view of it is gone: unmapping under a view would turn a late read into
        a crash.
        """
        os.close(self.fd)
