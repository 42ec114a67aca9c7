"""Which worker holds which prefix: a table of block hashes with a bit for each worker.

::

    memory      sets of 8 entries; an entry is
                key      64 bits    block hash and the group of workers (slot / 64): its lowest four bits are the
                                    group, the others those of the hash, mixed with the group
                workers  64 bits    bit ``slot % 64`` for each worker of the group that holds the block
                stamp    32 bits    when it was last recorded, in 1/64 s of the clock, modulo 2**32; 0: free
    arrays      [ keys of all sets ] [ workers of all sets ] [ stamps of all sets ]

Hashes are chained (``block_hash.py``), so one block stands for the whole prefix that ends with it. A worker's match is
therefore the deepest block that it is known to hold: a block in between that was evicted here, or lost to another
process, does not shorten it.

Engines evict, and few tell. Where it is known since when an engine has computed as much as its cache holds, what was
recorded there before is taken to be lost (``cached_since``). An entry has one stamp for all workers of its group, so
recording a block for one worker makes it look new at the others that still hold it: they may be believed for longer
than they should be, and never for less.

All processes read and write the table, without a lock. Writers take a free entry of the set, else the one that was
recorded longest ago, and write it as: no workers, key, workers, stamp. A torn read: two processes that change one entry
at the same moment may lose a bit or leave one too many, two that add one block may each give it an entry (both are read
then), and a reader may see the workers of a key that has just been replaced. Each costs a hint about a cache, never a
wrong answer; so does a process killed half-way. Memory is bounded by the size given, and only used as far as it was
touched.

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
_MOST_SETS = (1 << 32) - 1
_GROUPS = 16
_GROUP_MASK = np.uint64(_GROUPS - 1)
_HASH_MASK = ~_GROUP_MASK
_GROUP_STEP = 0x9E3779B97F4A7C15
_HALF_WORD = np.uint64(32)
_ONE = np.uint64(1)
_BITS = _ONE << np.arange(GROUP_WORKERS, dtype=np.uint64)
_WAYS_SHIFT = 3
_STAMP_MASK = 0xFFFF_FFFF
_ONE_TICK = np.uint32(1)
_LEAD = 64
"""Ticks by which another process's stamps may be ahead: it has read the clock later."""
_CLEAR_AT_ONCE = 1 << 16
_COUNTED = 1 << 20


class IndexState(NamedTuple):
    """How full the index is. ``blocks`` of a large one is an estimate from a part of it."""

    capacity_blocks: int
    blocks: int


class _Found(NamedTuple):
    """Where the blocks of a prompt are: which of the ``keys`` have an entry (``blocks``), and the ``entries``."""

    hashes: Hashes
    group: int
    keys: Hashes
    sets: Ints
    blocks: Ints
    entries: Ints


class PrefixIndex:
    """One process's access to the index in ``memory``, which all processes of the service give it.

    ``clock`` returns seconds. With ``half_life_secs`` a match counts half after that time without being recorded again;
    0 is never. ``cached_since`` has a moment for each slot, which others change: what was recorded there before it, to
    the tick of a stamp, and not again since is taken to be lost; 0 is none. Raises ``ValueError`` when not even one set
    fits.
    """

    def __init__(
        self,
        *,
        memory: memoryview,
        clock: Callable[[], float],
        half_life_secs: float = 0.0,
        cached_since: Floats | None = None,
    ) -> None:
        sets = min(len(memory) // _SET_BYTES, _MOST_SETS)
        if not sets:
            raise ValueError(f"no prefix index fits in {len(memory)} bytes: a set takes {_SET_BYTES}")
        entries = sets * WAYS
        self._clock = clock
        self._half_life = half_life_secs
        self._sets = np.uint64(sets)
        self._keys = np.frombuffer(memory, np.uint64, entries)
        self._workers = np.frombuffer(memory, np.uint64, entries, 8 * entries)
        self._stamps = np.frombuffer(memory, np.uint32, entries, 16 * entries)
        self._key_sets = self._keys.reshape(sets, WAYS)
        self._stamp_sets = self._stamps.reshape(sets, WAYS)
        self._cached_since = (
            None if cached_since is None else cached_since[: _GROUPS * GROUP_WORKERS].reshape(_GROUPS, -1)
        )
        self._last: _Found | None = None
        # Blocks of one group go to other sets than those of another: else many groups would crowd few sets.
        self._group_marks = [
            (np.uint64(group * _GROUP_STEP % (1 << 64)) & _HASH_MASK) | np.uint64(group) for group in range(_GROUPS)
        ]

    def match(self, hashes: Hashes, slots: Ints) -> Floats:
        """Return how many leading blocks of a prompt each of the workers in ``slots`` holds."""
        hashes = _bounded(hashes)
        if slots.max(initial=0) < GROUP_WORKERS:
            return self._match_group(hashes, 0)[slots]
        groups = slots >> 6
        depths = np.empty(len(slots))
        for group in np.unique(groups).tolist():
            inside = groups == group
            depths[inside] = self._match_group(hashes, group)[slots[inside] & 63]
        return depths

    def record(self, hashes: Hashes, slot: int) -> Hashes:
        """Note that a worker holds these blocks; return those that are news."""
        hashes = _bounded(hashes)
        bit = _ONE << np.uint64(slot & 63)
        _, _, keys, sets, blocks, entries = self._matched(hashes, slot >> 6) or self._look_up(hashes, slot >> 6)
        # Before they look new: to the worker itself, what it has lost is news.
        self._take_lost(entries, slot >> 6)
        holds = self._workers.take(entries) & bit != 0
        known = np.zeros(len(hashes), dtype=np.bool_)
        known[blocks] = holds
        now = self._now()
        self._stamps[entries] = _stamp(now)
        if known.all():
            return hashes[:0]
        self._workers[entries[~holds]] |= bit
        found = np.zeros(len(hashes), dtype=np.bool_)
        found[blocks] = True
        if not found.all():
            # What the prompt holds in a set must not make room for the rest of it, not even within one tick.
            self._stamps[entries] = _stamp(now + _LEAD - 1)
            self._insert(keys[~found], sets[~found], bit, now)
            self._stamps[entries] = _stamp(now)
        news: Hashes = hashes[~known]
        return news

    def forget(self, hashes: Hashes, slot: int) -> None:
        """Note that a worker does not hold these blocks."""
        self._take_from(self._look_up(hashes, slot >> 6).entries, _ONE << np.uint64(slot & 63))

    def clear_worker(self, slot: int) -> None:
        """Note that a worker holds nothing: it is new, gone or has lost its cache. Takes milliseconds."""
        group, bit = np.uint64(slot >> 6), _ONE << np.uint64(slot & 63)
        for start in range(0, len(self._keys), _CLEAR_AT_ONCE):
            held = start + np.flatnonzero(self._workers[start : start + _CLEAR_AT_ONCE] & bit)
            if len(held):
                self._take_from(held[self._keys[held] & _GROUP_MASK == group], bit)

    def state(self) -> IndexState:
        """How full it is."""
        sample = self._workers[:_COUNTED]
        share = np.count_nonzero(sample) / len(sample)
        return IndexState(len(self._keys), round(share * len(self._keys)))

    def _match_group(self, hashes: Hashes, group: int) -> Floats:
        """Return the depths of the 64 workers of a group."""
        found = self._last = self._look_up(hashes, group)
        blocks, entries = found.blocks, found.entries
        if not len(blocks):
            return np.zeros(GROUP_WORKERS)
        workers = self._workers.take(entries)
        lost = self._lost(entries, group)
        if lost is not None:
            workers &= ~lost
        ends = _ends(workers)
        depths = blocks.take(ends) + 1.0
        bits = np.unpackbits(workers.take(ends).view(np.uint8), bitorder="little").reshape(-1, GROUP_WORKERS)
        held = bits * depths[:, None]
        deepest: Floats = held.max(axis=0)
        if self._half_life:
            stamps = self._stamps.take(entries.take(ends)).take(held.argmax(axis=0))
            ages = np.maximum((_stamp(self._now() + _LEAD) - stamps).astype(np.float64) - _LEAD, 0.0)
            deepest *= np.exp2(ages / (-STAMPS_PER_SEC * self._half_life))
        return deepest

    def _lost(self, entries: Ints, group: int) -> Hashes | None:
        """Return the workers of a group that have lost each of some entries, as bits; None where none has."""
        if self._cached_since is None:
            return None
        since = self._cached_since[group]
        if not np.count_nonzero(since) or not len(entries):
            return None
        now = self._now()
        ages = _stamp(now + _LEAD) - self._stamps.take(entries)
        # How old what a worker holds may be. Another process may have set a moment that is later than our now.
        if ages.max() <= max(now - int(since.max() * STAMPS_PER_SEC), 0) + _LEAD:
            return None
        limits = np.maximum(now - np.floor(since * STAMPS_PER_SEC), 0.0) + _LEAD
        limits[since == 0] = _STAMP_MASK
        order = limits.argsort()
        shorter = limits[order].searchsorted(ages)
        by_limit = np.zeros(GROUP_WORKERS + 1, dtype=np.uint64)
        np.bitwise_or.accumulate(_BITS[order], out=by_limit[1:])
        lost: Hashes = by_limit.take(shorter)
        return lost

    def _take_lost(self, entries: Ints, group: int) -> None:
        """Take from entries the workers that have lost them."""
        lost = self._lost(entries, group)
        if lost is not None:
            some = (self._workers.take(entries) & lost).nonzero()[0]
            self._workers[entries[some]] &= ~lost[some]

    def _insert(self, keys: Hashes, sets: Ints, bit: np.uint64, now: int) -> None:
        """Give entries to blocks that have none."""
        stamps = self._stamp_sets.take(sets, axis=0)
        # Time since some moment before the oldest stamp, and 0 for entries that are free.
        recency = (stamps - _stamp(now + _LEAD)) * np.minimum(stamps, _ONE_TICK)
        entries = sets * WAYS + recency.argmin(axis=1)
        self._write(entries, keys, bit, now)
        # Of blocks that share a set one has its entry by now; the others get the next oldest.
        late = np.flatnonzero(self._keys.take(entries) != keys)
        if len(late):
            late = late[sets[late].argsort(kind="stable")]
            sharing = sets[late]
            rank = np.arange(1, len(late) + 1) - sharing.searchsorted(sharing)
            late, rank = late[rank < WAYS], rank[rank < WAYS]
            ways = recency[late].argsort(axis=1, kind="stable")[np.arange(len(late)), rank]
            self._write(sets[late] * WAYS + ways, keys[late], bit, now)

    def _write(self, entries: Ints, keys: Hashes, bit: np.uint64, now: int) -> None:
        self._workers[entries] = 0
        self._keys[entries] = keys
        self._workers[entries] = bit
        self._stamps[entries] = _stamp(now)

    def _take_from(self, entries: Ints, bit: np.uint64) -> None:
        """Take a worker's bit from entries; those without any other worker become free."""
        left = self._workers[entries] & ~bit
        self._workers[entries] = left
        self._stamps[entries[left == 0]] = 0

    def _look_up(self, hashes: Hashes, group: int) -> _Found:
        keys, sets = self._places(hashes, group)
        return _Found(hashes, group, keys, sets, *self._find(keys, sets))

    def _matched(self, hashes: Hashes, group: int) -> _Found | None:
        """Return what the last match has found of these very hashes, if it still holds: a choice records them next."""
        last, self._last = self._last, None
        if last is None or last.hashes is not hashes or last.group != group:
            return None
        holds = (self._keys.take(last.entries) == last.keys.take(last.blocks)).all()
        return last if holds else None

    def _places(self, hashes: Hashes, group: int) -> tuple[Hashes, Ints]:
        """Return the keys of blocks for a group of workers, and the sets where they may be."""
        keys = (hashes & _HASH_MASK) ^ self._group_marks[group]
        return keys, (((keys >> _HALF_WORD) * self._sets) >> _HALF_WORD).view(np.int64)

    def _find(self, keys: Hashes, sets: Ints) -> tuple[Ints, Ints]:
        """Return which of the keys have an entry, and the entries; a key may have two, by two processes."""
        # One comparison of long arrays: with an array of rows and a column of keys it takes twice as long.
        hits = (self._key_sets.take(sets, axis=0).reshape(-1) == keys.repeat(WAYS)).nonzero()[0]
        blocks: Ints = hits >> _WAYS_SHIFT
        return blocks, sets.take(blocks) * WAYS + (hits & (WAYS - 1))

    def _now(self) -> int:
        return int(self._clock() * STAMPS_PER_SEC)


def _bounded(hashes: Hashes) -> Hashes:
    return hashes if len(hashes) <= MAX_BLOCKS else hashes[:MAX_BLOCKS]


def _stamp(tick: int) -> np.uint32:
    # 0 is the stamp of a free entry.
    return np.uint32(tick & _STAMP_MASK or 1)


def _ends(workers: Hashes) -> Ints:
    """Return some positions in ``workers``, not many, each worker's last one among them."""
    # Neighbours are mostly held by the same workers: only the last block of each such run can be the deepest.
    last = np.empty(len(workers), dtype=np.bool_)
    np.not_equal(workers[1:], workers[:-1], out=last[:-1])
    last[-1] = True
    ends: Ints = last.nonzero()[0]
    if len(ends) <= GROUP_WORKERS:
        return ends
    from_the_deepest = ends[::-1]
    held = workers.take(from_the_deepest)
    held[1:] &= ~np.bitwise_or.accumulate(held)[:-1]
    some: Ints = from_the_deepest[held != 0]
    return some
