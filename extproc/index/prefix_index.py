"""Which worker holds which prefix: a table of block hashes with a bit for each worker.

::

    memory      sets of 8 entries; an entry is
                key      64 bits    block hash, its lowest four bits replaced by the group (slot / 64); 0: empty
                workers  64 bits    bit ``slot % 64`` for each worker of the group that holds the block
                stamp    32 bits    when it was last recorded, in 1/64 s of the clock, modulo 2**32
    arrays      [ keys of all sets ] [ workers of all sets ] [ stamps of all sets ]

Hashes are chained (``block_hash.py``), so one block stands for the whole prefix that ends with it. A worker's match is
therefore the deepest block that it is known to hold: a block in between that was evicted here, or lost to another
process, does not shorten it.

All processes read and write the table, without a lock. Writers replace the entry of a set that was recorded longest
ago, and write it as: no workers, key, workers, stamp. A torn read: two processes that change one entry at the same
moment may lose a bit, and a reader may see the workers of a key that has just been replaced. Either costs a hint about
a cache, never a wrong answer; so does a process killed half-way. Memory is bounded by the size given, and only used as
far as it was written.

All operations are vectorised over the blocks of a prompt.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from extproc.index.block_hash import Hashes

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

WAYS = 8
GROUP_WORKERS = 64
MAX_BLOCKS = 1 << 16
"""Blocks of one prompt that are looked up and recorded; what is longer matches by its first so many."""
STAMPS_PER_SEC = 64

_SET_BYTES = WAYS * (8 + 8 + 4)
_GROUP_MASK = np.uint64(15)
_GROUP_STEP = 0x9E3779B97F4A7C15
_SHIFT = np.uint64(17)
_ONE = np.uint64(1)
_CLEAR_AT_ONCE = 1 << 16


class IndexState(NamedTuple):
    """How full the index is. ``blocks`` of a large one is an estimate from a part of it."""

    capacity_blocks: int
    blocks: int


class PrefixIndex:
    """One process's access to the index in ``memory``, which all processes of the service give it.

    ``clock`` returns seconds. With ``half_life_secs`` a match counts half after that time without being recorded again;
    0 is never.
    """

    def __init__(self, *, memory: memoryview, clock: Callable[[], float], half_life_secs: float = 0.0) -> None:
        sets = 1 << ((len(memory) // _SET_BYTES).bit_length() - 1)
        entries = sets * WAYS
        self._clock = clock
        self._half_life = half_life_secs
        self._set_mask = np.uint64(sets - 1)
        self._keys = np.frombuffer(memory, np.uint64, entries)
        self._workers = np.frombuffer(memory, np.uint64, entries, 8 * entries)
        self._stamps = np.frombuffer(memory, np.uint32, entries, 16 * entries)
        self._key_sets = self._keys.reshape(sets, WAYS)
        self._stamp_sets = self._stamps.reshape(sets, WAYS)

    def match(self, hashes: Hashes, slots: Ints) -> Floats:
        """Return how many leading blocks of a prompt each of the workers in ``slots`` holds."""
        hashes = hashes[:MAX_BLOCKS]
        if not len(hashes):
            return np.zeros(len(slots))
        groups = slots >> 6
        first = int(groups[0])
        if (groups == first).all():
            depths: Floats = self._match_group(hashes, first)[slots & 63]
            return depths
        depths = np.empty(len(slots))
        for group in np.unique(groups).tolist():
            inside = groups == group
            depths[inside] = self._match_group(hashes, group)[slots[inside] & 63]
        return depths

    def record(self, hashes: Hashes, slot: int) -> Hashes:
        """Note that a worker holds these blocks; return those that are news."""
        hashes = hashes[:MAX_BLOCKS]
        if not len(hashes):
            return hashes
        bit = _ONE << np.uint64(slot & 63)
        keys, sets = self._places(hashes, slot >> 6)
        entries, found = self._find(keys, sets)
        known = found & (self._workers[entries] & bit != 0)
        now = self._now()
        self._stamps[entries[found]] = now
        if known.all():
            return hashes[:0]
        self._workers[entries[found & ~known]] |= bit
        missing = np.flatnonzero(~found)
        # Blocks of one prompt that share a set displace each other at first; each round places one of them.
        for _ in range(WAYS):
            if not len(missing):
                break
            places = sets[missing]
            victims = places * WAYS + (now - self._stamp_sets[places]).argmax(axis=1)
            self._workers[victims] = 0
            self._keys[victims] = keys[missing]
            self._workers[victims] = bit
            self._stamps[victims] = now
            missing = missing[self._keys[victims] != keys[missing]]
        news: Hashes = hashes[~known]
        return news

    def forget(self, hashes: Hashes, slot: int) -> None:
        """Note that a worker does not hold these blocks."""
        if len(hashes):
            bit = _ONE << np.uint64(slot & 63)
            entries, found = self._find(*self._places(hashes, slot >> 6))
            self._workers[entries[found]] &= ~bit

    def clear_worker(self, slot: int) -> None:
        """Note that a worker holds nothing: it is new, gone or has lost its cache. Takes milliseconds."""
        group, bit = np.uint64(slot >> 6), _ONE << np.uint64(slot & 63)
        for start in range(0, len(self._keys), _CLEAR_AT_ONCE):
            workers = self._workers[start : start + _CLEAR_AT_ONCE]
            held = np.flatnonzero(workers & bit)
            if len(held):
                of_group = held[self._keys[start : start + _CLEAR_AT_ONCE][held] & _GROUP_MASK == group]
                workers[of_group] &= ~bit

    def clear(self) -> None:
        """Forget everything."""
        self._workers[:] = 0
        self._keys[:] = 0

    def state(self) -> IndexState:
        """How full it is."""
        sample = self._keys[: 1 << 20]
        share = np.count_nonzero(sample) / len(sample)
        return IndexState(len(self._keys), round(share * len(self._keys)))

    def _match_group(self, hashes: Hashes, group: int) -> Floats:
        entries, found = self._find(*self._places(hashes, group))
        workers = np.where(found, self._workers[entries], np.uint64(0))
        # Neighbours are mostly held by the same workers: only the last block of each such run can be the deepest.
        ends = np.append(np.flatnonzero(workers[1:] != workers[:-1]), len(workers) - 1)
        bits = np.unpackbits(workers[ends].view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
        depths = ((ends + 1)[:, None] * bits).max(axis=0)
        if not self._half_life:
            return np.asarray(depths, dtype=np.float64)
        last = np.maximum(depths - 1, 0)
        ages = (self._now() - self._stamps[entries[last]]) / STAMPS_PER_SEC
        faded: Floats = depths * np.exp2(-ages / self._half_life)
        return faded

    def _places(self, hashes: Hashes, group: int) -> tuple[Hashes, Ints]:
        """Return the keys of blocks for a group of workers, and the sets where they may be."""
        keys = (hashes & ~_GROUP_MASK) | np.uint64(group)
        mixed = keys ^ np.uint64(group * _GROUP_STEP & 0xFFFF_FFFF_FFFF_FFFF)
        return keys, ((mixed >> _SHIFT) & self._set_mask).astype(np.int64)

    def _find(self, keys: Hashes, sets: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """Return the entry of each key, and whether there is one."""
        equal = self._key_sets[sets] == keys[:, None]
        entries: Ints = sets * WAYS + equal.argmax(axis=1)
        return entries, self._keys[entries] == keys

    def _now(self) -> np.uint32:
        return np.uint32(int(self._clock() * STAMPS_PER_SEC) & 0xFFFF_FFFF)
