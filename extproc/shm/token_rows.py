"""The index of the token store: 128-bit keys, each with a place in a chunk and a number of tokens.

A set-associative table of rows, one cache line each::

    word 0, 1   key
    word 2      claim        of the chunk, when the row was written
    word 3      place        chunk << 32 | offset / 64
    word 4      size         tokens << 32 | bytes of text
    word 5      check        hash of words 0 to 4
    word 6      last_used    time.monotonic_ns()

Any process reads and writes any row, without a lock. A row that is seen half written fails its check; of two rows that
are written to one place at the same time one is lost, or both. That costs a miss and never a wrong answer: what a row
points to is validated in turn.
"""

from time import monotonic_ns
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

ROW_WORDS = 8
ROW_BYTES = 64
WAYS = 4
PLACE_UNIT = 64

_KEY_A, _KEY_B, _CLAIM, _PLACE, _SIZE, _CHECK, _LAST_USED = range(7)
_CHECKED_BYTES = 40
_LOW = 0xFFFF_FFFF

Words = npt.NDArray[np.uint64]


class Row(NamedTuple):
    """Where the ids of a prefix are: the first ``tokens`` of what ends in that place, for ``bytes`` of text."""

    claim: int
    place: int
    tokens: int
    bytes: int

    @property
    def chunk(self) -> int:
        """Which chunk it is in."""
        return self.place >> 32

    @property
    def offset(self) -> int:
        """Where in the chunk, in bytes."""
        return (self.place & _LOW) * PLACE_UNIT


class RowTable:
    """The table over ``memory``; ``claims`` are the claims of the chunks now in force."""

    def __init__(self, *, memory: memoryview, claims: Words) -> None:
        self._rows = np.frombuffer(memory, dtype=np.uint64)
        self._sets = len(self._rows) // (ROW_WORDS * WAYS)
        assert self._sets & (self._sets - 1) == 0, "the number of sets is a power of two"
        self._table = self._rows.reshape(self._sets, WAYS, ROW_WORDS)
        self._mask = np.uint64(self._sets - 1)
        self._claims = claims

    def find_last(self, keys: Words) -> tuple[int, Row | None, npt.NDArray[np.bool_]]:
        """Look ``keys`` up, shape (n, 2); return the last one that is there, its row, and which seem to be there.

        The index is -1 and the row None when none is.
        """
        sets = (keys[:, 0] & self._mask).astype(np.intp)
        table = self._table[sets]
        indices, ways = np.nonzero((table[:, :, _KEY_A] == keys[:, :1]) & (table[:, :, _KEY_B] == keys[:, 1:]))
        seen = np.zeros(len(keys), dtype=np.bool_)
        if not len(indices):
            return -1, None, seen
        rows = table[indices, ways]
        in_force = self._in_force(rows)
        seen[indices] = in_force
        for at in np.flatnonzero(in_force)[::-1].tolist():
            words = rows[at].tolist()
            if xxhash.xxh3_64_intdigest(rows[at, :_CHECK].data) == words[_CHECK]:
                self._table[sets[indices[at]], ways[at], _LAST_USED] = monotonic_ns()
                tokens, size = words[_SIZE] >> 32, words[_SIZE] & _LOW
                return int(indices[at]), Row(words[_CLAIM], words[_PLACE], tokens, size), seen
        return -1, None, seen

    def put(self, keys: Words, *, claim: int, place: int, tokens: npt.NDArray[np.int64], sizes: list[int]) -> None:
        """Store that the prefix with ``keys[i]``, of ``sizes[i]`` bytes, is the first ``tokens[i]`` ids of a place."""
        count = len(keys)
        rows = np.zeros((count, ROW_WORDS), dtype=np.uint64)
        rows[:, :2] = keys
        rows[:, _CLAIM] = claim
        rows[:, _PLACE] = place
        rows[:, _SIZE] = (tokens << 32) | np.array(sizes, dtype=np.int64)
        rows[:, _LAST_USED] = monotonic_ns()
        memory = rows.data.cast("B")
        rows[:, _CHECK] = [
            xxhash.xxh3_64_intdigest(memory[start : start + _CHECKED_BYTES])
            for start in range(0, count * ROW_BYTES, ROW_BYTES)
        ]
        sets = (keys[:, 0] & self._mask).astype(np.intp)
        self._write(rows, sets)

    @property
    def capacity(self) -> int:
        """How many rows there are."""
        return self._sets * WAYS

    def clear(self) -> None:
        """Forget every row."""
        self._rows[:] = 0

    def count(self) -> int:
        """How many rows point to something that is still there. Reads the whole table."""
        return int(self._in_force(self._table).sum())

    def _in_force(self, table: Words) -> npt.NDArray[np.bool_]:
        """Whether each row's chunk still has the claim that the row knows."""
        chunks = (table[..., _PLACE] >> np.uint64(32)).astype(np.intp)
        # A row that was torn may name a chunk that does not exist.
        chunks[chunks >= len(self._claims)] = 0
        claims = table[..., _CLAIM]
        inside: npt.NDArray[np.bool_] = (claims != 0) & (self._claims[chunks] == claims)
        return inside

    def _write(self, rows: Words, sets: npt.NDArray[np.intp]) -> None:
        table = self._table[sets]
        same = (table[:, :, _KEY_A] == rows[:, None, _KEY_A]) & (table[:, :, _KEY_B] == rows[:, None, _KEY_B])
        # The row of the same key, else one that points nowhere, else the one used least recently.
        age = np.where(self._in_force(table), table[:, :, _LAST_USED] + np.uint64(2), np.uint64(1))
        ways = np.where(same, np.uint64(0), age).argmin(axis=1)
        self._table[sets, ways] = rows
        if len(sets) == 1:
            return
        _, firsts = np.unique(sets, return_index=True)
        if len(firsts) < len(sets):
            # Rows of one set chose their way without knowing of each other.
            again = np.setdiff1d(np.arange(len(sets)), firsts)
            self._write(rows[again], sets[again])
