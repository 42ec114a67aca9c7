"""The room of the token store: chunks that one process at a time fills, and that are taken back whole.

::

    chunk table, one cache line per chunk              written by
    word 0   claim       number of the claim; 0: free  the claimer, under the lock
    word 1   last_used   time.monotonic_ns()           anyone who writes or reads there
    word 2   used        bytes                         the claimer

A process claims a chunk, appends to it until it is full and claims the next. When no chunk is free, the one that was
used least recently is taken from whoever filled it. Every claim has a number that was never used before, so what is
left of an earlier claim can always be told from what belongs to the present one.

Claiming is the only thing that needs a lock: a POSIX record lock on the segment, tried and never waited for, that the
kernel releases when its holder dies. A claim that finds it taken fails, and what was to be stored is not.
"""

import fcntl
import threading
from time import monotonic_ns

import numpy as np

ENTRY_WORDS = 8
_CLAIM, _LAST_USED, _USED = range(3)


class ChunkTable:
    """The table over ``words`` (``len(words) / 8`` chunks), with ``counters`` for the number of claims and evictions.

    Any thread may use it. ``fd`` is the segment, which carries the lock.
    """

    def __init__(self, *, words: memoryview, counters: memoryview, fd: int, chunk_bytes: int) -> None:
        self._words = words
        self._counters = counters
        self._fd = fd
        self.chunk_bytes = chunk_bytes
        self.count = len(words) // ENTRY_WORDS
        self._table = np.frombuffer(words, dtype=np.uint64).reshape(self.count, ENTRY_WORDS)
        self.claims = self._table[:, _CLAIM]
        # A record lock belongs to a process and keeps its threads from nothing.
        self._threads = threading.Lock()
        self._chunk = -1
        self._claim = 0
        self._used = 0

    def allocate(self, size: int) -> tuple[int, int, int] | None:
        """Take ``size`` bytes (at most a chunk); return the chunk, the claim and the offset in the chunk.

        None when a chunk had to be claimed and another process was just doing so.
        """
        with self._threads:
            base = self._chunk * ENTRY_WORDS
            mine = self._chunk >= 0 and self._words[base + _CLAIM] == self._claim
            if (not mine or self._used + size > self.chunk_bytes) and not self._claim_chunk():
                return None
            base = self._chunk * ENTRY_WORDS
            offset = self._used
            self._used += size
            self._words[base + _USED] = self._used
            self._words[base + _LAST_USED] = monotonic_ns()
            return self._chunk, self._claim, offset

    def touch(self, chunk: int) -> None:
        """Say that something in a chunk was of use."""
        self._words[chunk * ENTRY_WORDS + _LAST_USED] = monotonic_ns()

    def clear(self) -> bool:
        """Free every chunk; False when another process holds the lock."""
        with self._threads:
            if not self._lock():
                return False
            self._table[:] = 0
            self._unlock()
            return True

    @property
    def used_bytes(self) -> int:
        """Bytes written in chunks that are in use."""
        return int(self._table[:, _USED].sum())

    @property
    def evictions(self) -> int:
        """Chunks that were taken back while in use, since the store was made."""
        return self._counters[1]

    def _claim_chunk(self) -> bool:
        if not self._lock():
            return False
        free = np.flatnonzero(self.claims == 0)
        if len(free):
            chunk = int(free[0])
        else:
            chunk = int(self._table[:, _LAST_USED].argmin())
            self._counters[1] += 1
        claim = self._counters[0] = self._counters[0] + 1
        base = chunk * ENTRY_WORDS
        # The number first: from here on nothing of the old claim is taken for valid.
        self._words[base + _CLAIM] = claim
        self._words[base + _USED] = 0
        self._words[base + _LAST_USED] = monotonic_ns()
        self._unlock()
        self._chunk, self._claim, self._used = chunk, claim, 0
        return True

    def _lock(self) -> bool:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
        except OSError:
            return False
        return True

    def _unlock(self) -> None:
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1)
