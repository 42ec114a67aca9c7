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

import struct
from collections.abc import Iterable, Sequence
from time import monotonic_ns
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

ROW_WORDS = 8
ROW_BYTES = 64
WAYS = 4
PLACE_UNIT = 64
_COUNTED_SETS = 1 << 16

_SET_WORDS = WAYS * ROW_WORDS
_KEY_A, _KEY_B, _CLAIM, _PLACE, _SIZE, _CHECK, _LAST_USED = range(7)
_CHECKED = struct.Struct("=5Q")
_UNCHECKED = struct.Struct("=3Q")
_SET = struct.Struct(f"={_SET_WORDS}Q")
_SET_BYTES = WAYS * ROW_BYTES
_LOW = 0xFFFF_FFFF

Words = npt.NDArray[np.uint64]


Key = tuple[int, int]


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
        self._memory = memory
        self._words = memory.cast("Q")
        self._sets = len(self._words) // _SET_WORDS
        assert self._sets & (self._sets - 1) == 0, "the number of sets is a power of two"
        self._table = np.frombuffer(memory, dtype=np.uint64).reshape(self._sets, WAYS, ROW_WORDS)
        self._claims = claims
        self._claim_of = claims.data

    @property
    def capacity(self) -> int:
        """How many rows there are."""
        return self._sets * WAYS

    def find(self, key: Key) -> Row | None:
        """Return the row of a key, or None when there is none that is whole and points to something."""
        base = (key[0] & (self._sets - 1)) * _SET_WORDS
        words = self._words[base : base + _SET_WORDS].tolist()
        for way in range(0, _SET_WORDS, ROW_WORDS):
            if words[way] == key[0] and words[way + 1] == key[1]:
                checked = words[way : way + _CHECK]
                _, _, claim, place, size = checked
                if _check(checked) == words[way + _CHECK] and self._in_force(claim, place):
                    self._words[base + way + _LAST_USED] = monotonic_ns()
                    return Row(claim, place, size >> 32, size & _LOW)
        return None

    def present(self, keys: Words) -> npt.NDArray[np.bool_]:
        """Return which of ``keys``, shape (n, 2), seem to be there; cheaper for many than looking each up."""
        table = self._table[(keys[:, 0] & np.uint64(self._sets - 1)).astype(np.intp)]
        same = (table[:, :, _KEY_A] == keys[:, :1]) & (table[:, :, _KEY_B] == keys[:, 1:])
        there: npt.NDArray[np.bool_] = (same & self._are_in_force(table)).any(axis=1)
        return there

    def put(self, claim: int, place: int, entries: Iterable[tuple[Key, int, int]]) -> None:
        """Store rows that lead to one place: each a key, a number of tokens and one of bytes.

        Each takes the place of the one with the same key, else of the one used least recently.
        """
        memory, last_set = self._memory, self._sets - 1
        for (first, second), tokens, size in entries:
            start = (first & last_set) * _SET_BYTES
            words = _SET.unpack_from(memory, start)
            ages = words[_LAST_USED::ROW_WORDS]
            way = ages.index(min(ages))
            if first in words:
                for same in range(WAYS):
                    if words[same * ROW_WORDS] == first and words[same * ROW_WORDS + 1] == second:
                        way = same
            start += way * ROW_BYTES
            checked = _CHECKED.pack(first, second, claim, place, tokens << 32 | size)
            # Every row its own time: of rows of one time in a set, all would take the place of the first.
            rest = _UNCHECKED.pack(xxhash.xxh3_64_intdigest(checked), monotonic_ns(), 0)
            memory[start : start + ROW_BYTES] = checked + rest

    def count(self) -> int:
        """How many rows point to something that is still there; of a large table an estimate from a part of it."""
        # Keys are hashes, so one part is as full as another. Reading all would fill the memory of the table with pages.
        sample = self._table[:_COUNTED_SETS]
        return int(self._are_in_force(sample).sum()) * self._sets // len(sample)

    def _in_force(self, claim: int, place: int) -> bool:
        """Whether the chunk of a place still has the claim under which a row was written."""
        chunk = place >> 32
        # A row that was torn may name a chunk that does not exist.
        return claim != 0 and chunk < len(self._claims) and self._claim_of[chunk] == claim

    def _are_in_force(self, table: Words) -> npt.NDArray[np.bool_]:
        chunks = (table[..., _PLACE] >> np.uint64(32)).astype(np.intp)
        chunks[chunks >= len(self._claims)] = 0
        claims = table[..., _CLAIM]
        inside: npt.NDArray[np.bool_] = (claims != 0) & (self._claims[chunks] == claims)
        return inside


def _check(words: Sequence[int]) -> int:
    return xxhash.xxh3_64_intdigest(_CHECKED.pack(*words))
