"""Which worker holds which prefix: a table of block hashes with bits for each worker.

::

    memory      16 words: for each group of 64 workers (slot / 64) those whose engines say what they hold
                16 words: the first two tell whether anything was ever near, or far
                sets of 8 entries; an entry is
                key      64 bits    block hash and the group: its lowest four bits are the group, the others those of
                                    the hash, mixed with the group
                claimed  64 bits    bit ``slot % 64`` for each worker of the group that was sent the block
                near     64 bits    ... whose engine says that it has the block in the GPU's memory
                far      64 bits    ... that it has it elsewhere, from where it has to be loaded
                stamp    32 bits    when it was last recorded, in 1/64 s of the clock, modulo 2**32; 0: free
    arrays      [ keys of all sets ] [ claimed of all sets ] [ near ] [ far ] [ stamps of all sets ]

Hashes are chained (``block_hash.py``), so one block stands for the whole prefix that ends with it.

**Engines that do not tell.** A worker's match is the deepest block that it was sent: a block in between that was
evicted here, or lost to another process, does not shorten it. Where it is known since when an engine has computed as
much as its cache holds, what was recorded there before is taken to be lost (``cached_since``). An entry has one stamp
for all workers of its group, so recording a block for one worker makes it look new at the others that still hold it:
they may be believed for longer than they should be, and never for less.

**Engines that tell** are *precise*: a match is as many blocks from the first on as are there without a gap, which is
what the engine can use. What was sent there lately counts as there, until whoever sent it takes it back.

All processes read and write the table, without a lock. Routers write what is claimed and the observer what is held, so
neither loses the other's bits. Writers take a free entry of the set, else the one that was recorded longest ago, and
write it as: nobody, key, bits, stamp. A torn read: two processes that change one word of an entry at the same moment
may lose a bit or leave one too many, two that add one block may each give it an entry (both are read then), and a
reader may see the workers of a key that has just been replaced. Each costs a hint about a cache, never a wrong answer;
so does a process killed half-way. Memory is bounded by the size given, and only used as far as it was touched.

All operations are vectorised over blocks.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from extproc.index.block_hash import Hashes
from extproc.index.depths import GROUP_WORKERS, Floats, Ints, deepest_blocks

WAYS = 8
MAX_BLOCKS = 1 << 16
"""Blocks of one prompt that are looked up and recorded; what is longer matches by its first so many."""
STAMPS_PER_SEC = 64

BLOCK_BYTES = 4 * 8 + 4
_SET_BYTES = WAYS * BLOCK_BYTES
_MOST_SETS = (1 << 32) - 1
_GROUPS = 16
_HEADER_BYTES = 2 * _GROUPS * 8
_GROUP_MASK = np.uint64(_GROUPS - 1)
_HASH_MASK = ~_GROUP_MASK
_GROUP_STEP = 0x9E3779B97F4A7C15
_HALF_WORD = np.uint64(32)
_ONE = np.uint64(1)
_NOBODY = np.uint64(0)
_BITS = _ONE << np.arange(GROUP_WORKERS, dtype=np.uint64)
_WAYS_SHIFT = 3
_NUMBERS = np.arange(MAX_BLOCKS)
_STAMP_MASK = 0xFFFF_FFFF
_ONE_TICK = np.uint32(1)
_LEAD = 64
"""Ticks by which another process's stamps may be ahead: it has read the clock later."""
_AT_ONCE = 1 << 16
_COUNTED = 1 << 20


class Tier(IntEnum):
    """Where an engine holds a block."""

    NEAR = 0
    """In the GPU's memory."""
    FAR = 1
    """Elsewhere, from where it has to be loaded."""


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

    ``clock`` returns seconds. With ``half_life_secs`` what was sent to a worker counts half after that time without
    being sent again; 0 is never, or, where ``half_lives`` has another time for its slot, after that. ``cached_since``
    has a moment for each slot: what was sent there before it, to the tick of a stamp, and not again since is taken to
    be lost; 0 is none. Others change both. A block that is only in the ``FAR`` tier is worth ``lower_tier_weight`` of
    one. Raises ``ValueError`` when not even one set fits.
    """

    def __init__(
        self,
        *,
        memory: memoryview,
        clock: Callable[[], float],
        half_life_secs: float = 0.0,
        half_lives: Floats | None = None,
        cached_since: Floats | None = None,
        lower_tier_weight: float = 1.0,
    ) -> None:
        sets = min((len(memory) - _HEADER_BYTES) // _SET_BYTES, _MOST_SETS)
        if sets < 1:
            raise ValueError(f"no prefix index fits in {len(memory)} bytes: a set takes {_SET_BYTES}")
        entries = sets * WAYS
        self._clock = clock
        self._half_lives = _by_group(half_lives)
        if half_life_secs:
            self._half_lives = np.full((_GROUPS, GROUP_WORKERS), half_life_secs)
        self._lower_tier_weight = lower_tier_weight
        self._sets = np.uint64(sets)
        self._precise = np.frombuffer(memory, np.uint64, _GROUPS)
        # Where no engine says anything, or none has a lower tier, nobody has to look there.
        self._used = memory[_GROUPS * 8 : _HEADER_BYTES].cast("Q")
        words = np.frombuffer(memory, np.uint64, 4 * entries, _HEADER_BYTES).reshape(4, entries)
        self._keys, self._claimed, *self._held = words
        self._near, self._far = self._held
        self._stamps = np.frombuffer(memory, np.uint32, entries, _HEADER_BYTES + 32 * entries)
        self._key_sets = self._keys.reshape(sets, WAYS)
        self._stamp_sets = self._stamps.reshape(sets, WAYS)
        self._cached_since = _by_group(cached_since)
        self._last: _Found | None = None
        # Blocks of one group go to other sets than those of another: else many groups would crowd few sets.
        self._group_marks = np.array(
            [(np.uint64(group * _GROUP_STEP % (1 << 64)) & _HASH_MASK) | np.uint64(group) for group in range(_GROUPS)]
        )

    def match(self, hashes: Hashes, slots: Ints) -> Floats:
        """Return how many leading blocks of a prompt each of the workers in ``slots`` holds, by what they are worth."""
        hashes = _bounded(hashes)
        if slots.max(initial=0) < GROUP_WORKERS:
            return self._match_group(hashes, 0)[slots]
        groups = slots >> 6
        depths = np.empty(len(slots))
        for group in np.unique(groups).tolist():
            inside = groups == group
            depths[inside] = self._match_group(hashes, group)[slots[inside] & 63]
        return depths

    def leading_blocks(self, hashes: Hashes, slot: int) -> int:
        """Return how many blocks of a prompt, from the first on and without a gap, a worker holds or was sent."""
        hashes = _bounded(hashes)
        found = self._look_up(hashes, slot >> 6)
        there = np.zeros(len(hashes) + 1, dtype=np.bool_)
        there[found.blocks[self._anywhere(found.entries) & _bit(slot) != 0]] = True
        return int(there.argmin())

    def record(self, hashes: Hashes, slot: int) -> Hashes:
        """Note that a worker is sent these blocks; return those that are news."""
        hashes = _bounded(hashes)
        bit = _bit(slot)
        _, _, keys, sets, blocks, entries = self._matched(hashes, slot >> 6) or self._look_up(hashes, slot >> 6)
        # Before they look new: to the worker itself, what it has lost is news.
        self._take_lost(entries, slot >> 6)
        holds = self._anywhere(entries) & bit != 0
        known = np.zeros(len(hashes), dtype=np.bool_)
        known[blocks[holds]] = True
        now = self._now()
        self._stamps[entries] = _stamp(now)
        if known.all():
            return hashes[:0]
        self._claimed[entries[~holds]] |= bit
        found = np.zeros(len(hashes), dtype=np.bool_)
        found[blocks] = True
        if not found.all():
            self._insert(keys[~found], sets[~found], bit, self._claimed, spared=entries, now=now)
        news: Hashes = hashes[~known]
        return news

    def forget(self, hashes: Hashes, slot: int) -> None:
        """Take back that a worker was sent these blocks; what its engine says of them stays."""
        entries = self._look_up(hashes, slot >> 6).entries
        self._claimed[entries] &= ~_bit(slot)
        self._free(entries)

    def hold(self, hashes: Hashes, slots: Ints, *, tier: Tier) -> None:
        """Note that engines say that they hold blocks, each ``hashes[i]`` at ``slots[i]``. For the observer alone."""
        table = self._held[tier]
        self._used[tier] = 1
        for start in range(0, len(hashes), _AT_ONCE):
            keys, sets, bits = self._pairs(hashes[start : start + _AT_ONCE], slots[start : start + _AT_ONCE])
            blocks, entries = self._find(keys, sets)
            found_bits = bits.take(blocks)
            # Several workers may hold one block, and one call names them all.
            np.bitwise_or.at(table, entries, found_bits)
            np.bitwise_and.at(self._claimed, entries, ~found_bits)
            now = self._now()
            self._stamps[entries] = _stamp(now)
            missing = np.ones(len(keys), dtype=np.bool_)
            missing[blocks] = False
            if missing.any():
                new_keys, first, places = np.unique(keys[missing], return_index=True, return_inverse=True)
                new_bits = np.zeros(len(new_keys), dtype=np.uint64)
                np.bitwise_or.at(new_bits, places, bits[missing])
                self._insert(new_keys, sets[missing][first], new_bits, table, spared=entries, now=now)

    def release(self, hashes: Hashes, slots: Ints, *, tier: Tier) -> None:
        """Note that engines say that they hold blocks no more, as for :meth:`hold`."""
        for start in range(0, len(hashes), _AT_ONCE):
            keys, sets, bits = self._pairs(hashes[start : start + _AT_ONCE], slots[start : start + _AT_ONCE])
            blocks, entries = self._find(keys, sets)
            np.bitwise_and.at(self._held[tier], entries, ~bits.take(blocks))
            self._free(entries)

    def holds(self, hashes: Hashes, slot: int, *, tier: Tier) -> npt.NDArray[np.bool_]:
        """Return which of some blocks a worker's engine says that it holds."""
        found = self._look_up(hashes, slot >> 6)
        there = np.zeros(len(hashes), dtype=np.bool_)
        there[found.blocks[self._held[tier].take(found.entries) & _bit(slot) != 0]] = True
        return there

    def claims(self, slot: int) -> tuple[Hashes, Floats]:
        """Return the blocks that a worker was sent, but for four bits of each hash that nothing depends on; and ages.

        Ages are in seconds. Takes milliseconds.
        """
        group, bit = slot >> 6, _bit(slot)
        entries = np.flatnonzero(self._claimed & bit)
        entries = entries[self._keys[entries] & _GROUP_MASK == np.uint64(group)]
        ages = (_stamp(self._now() + _LEAD) - self._stamps[entries]).astype(np.float64) - _LEAD
        hashes: Hashes = (self._keys[entries] ^ self._group_marks[group]) & _HASH_MASK
        return hashes, np.maximum(ages, 0.0) / STAMPS_PER_SEC

    def claim(self, hashes: Hashes, slot: int, *, ages: Floats) -> None:
        """Take over what :meth:`claims` returned."""
        bit = _bit(slot)
        ticks = np.minimum(np.ceil(ages * STAMPS_PER_SEC), _STAMP_MASK >> 1).astype(np.int64)
        for start in range(0, len(hashes), _AT_ONCE):
            keys, sets = self._places(hashes[start : start + _AT_ONCE], slot >> 6)
            blocks, entries = self._find(keys, sets)
            self._claimed[entries] |= bit
            new = np.ones(len(keys), dtype=np.bool_)
            new[blocks] = False
            now = self._now()
            self._insert(keys[new], sets[new], bit, self._claimed, spared=entries[:0], now=now)
            # What somebody else was sent since then stays as new as it is.
            numbers = np.flatnonzero(new)
            blocks, entries = self._find(keys[new], sets[new])
            self._stamps[entries] = np.maximum((now - ticks[start + numbers[blocks]]) & _STAMP_MASK, 1)

    def set_precise(self, slot: int, *, precise: bool) -> None:
        """Say whether a worker's engine tells of every block that it holds. For the observer alone."""
        group = slot >> 6
        self._precise[group] = self._precise[group] & ~_bit(slot) | (_bit(slot) if precise else _NOBODY)

    def is_precise(self, slot: int) -> bool:
        """Whether a worker's engine tells of every block that it holds."""
        return bool(self._precise[slot >> 6] & _bit(slot))

    def clear_worker(self, slot: int) -> None:
        """Note that a worker holds nothing: it is new, gone or has lost its cache. Takes milliseconds."""
        self._clear(slot, self._claimed, self._near, self._far)

    def clear_held(self, slot: int) -> None:
        """Forget what a worker's engine has said. For the observer alone; takes milliseconds."""
        self._clear(slot, self._near, self._far)

    def clear_claims(self, slot: int) -> None:
        """Forget what a worker was sent. Takes milliseconds."""
        self._clear(slot, self._claimed)

    def state(self) -> IndexState:
        """How full it is."""
        sample = self._stamps[:_COUNTED]
        share = np.count_nonzero(sample) / len(sample)
        return IndexState(len(self._keys), round(share * len(self._keys)))

    def _match_group(self, hashes: Hashes, group: int) -> Floats:
        """Return the match of each worker of a group."""
        found = self._last = self._look_up(hashes, group)
        blocks, entries = found.blocks, found.entries
        if not len(blocks):
            return np.zeros(GROUP_WORKERS)
        claimed = self._claimed.take(entries)
        lost = self._lost(entries, group)
        if lost is not None:
            claimed &= ~lost
        there = claimed | self._near.take(entries) if self._used[Tier.NEAR] else claimed
        anywhere = there | self._far.take(entries) if self._used[Tier.FAR] else there
        precise = self._precise[group]
        deepest, at = deepest_blocks(self._usable(anywhere, blocks, precise), blocks)
        if self._used[Tier.FAR]:
            near_depths, _ = deepest_blocks(self._usable(there, blocks, precise), blocks)
            weight = self._lower_tier_weight
            deepest = weight * deepest + (1.0 - weight) * near_depths
        if self._half_lives is not None:
            deepest *= self._decay(entries.take(at), group, precise)
        return deepest

    @staticmethod
    def _usable(workers: Hashes, blocks: Ints, precise: np.uint64) -> Hashes:
        """Return ``workers``, the precise ones only as far as no block before is missing."""
        if not precise:
            return workers
        if len(blocks) == int(blocks[-1]) + 1 and (blocks == _NUMBERS[: len(blocks)]).all():
            runs = np.bitwise_and.accumulate(workers)
        else:
            every = np.zeros(int(blocks[-1]) + 1, dtype=np.uint64)
            # Some keys may have two entries.
            np.bitwise_or.at(every, blocks, workers)
            runs = np.bitwise_and.accumulate(every, out=every).take(blocks)
        others = ~precise
        return workers & (runs | others) if others else runs

    def _decay(self, deepest: Ints, group: int, precise: np.uint64) -> Floats | float:
        """Return what each worker's deepest match is worth, by the age of the entry that it ends with."""
        assert self._half_lives is not None
        half_lives = self._half_lives[group]
        if not np.count_nonzero(half_lives):
            return 1.0
        stamps = self._stamps.take(deepest)
        ages = np.maximum((_stamp(self._now() + _LEAD) - stamps).astype(np.float64) - _LEAD, 0.0)
        told = (self._near.take(deepest) | self._far.take(deepest) | precise) & _BITS != 0
        ages[told | (half_lives == 0)] = 0.0
        worth: Floats = np.exp2(ages / (-STAMPS_PER_SEC * np.where(half_lives > 0, half_lives, 1.0)))
        return worth

    def _anywhere(self, entries: Ints) -> Hashes:
        """Return the workers that hold the blocks of some entries, or were sent them."""
        workers: Hashes = self._claimed.take(entries)
        if self._used[Tier.NEAR]:
            workers |= self._near.take(entries)
        if self._used[Tier.FAR]:
            workers |= self._far.take(entries)
        return workers

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
            some = (self._claimed.take(entries) & lost).nonzero()[0]
            self._claimed[entries[some]] &= ~lost[some]

    def _insert(
        self, keys: Hashes, sets: Ints, bits: Hashes | np.uint64, table: Hashes, *, spared: Ints, now: int
    ) -> None:
        """Give entries to blocks that have none, with their bits in ``table``; the entries ``spared`` stay."""
        # What else the call is about must not make room, not even within one tick.
        self._stamps[spared] = _stamp(now + _LEAD - 1)
        stamps = self._stamp_sets.take(sets, axis=0)
        # Time since some moment before the oldest stamp, and 0 for entries that are free.
        recency = (stamps - _stamp(now + _LEAD)) * np.minimum(stamps, _ONE_TICK)
        entries = sets * WAYS + recency.argmin(axis=1)
        bits = np.broadcast_to(bits, keys.shape)
        self._write(entries, keys, bits, table, now)
        # Of blocks that share a set one has its entry by now; the others get the next oldest.
        late = np.flatnonzero(self._keys.take(entries) != keys)
        if len(late):
            late = late[sets[late].argsort(kind="stable")]
            sharing = sets[late]
            rank = np.arange(1, len(late) + 1) - sharing.searchsorted(sharing)
            late, rank = late[rank < WAYS], rank[rank < WAYS]
            ways = recency[late].argsort(axis=1, kind="stable")[np.arange(len(late)), rank]
            self._write(sets[late] * WAYS + ways, keys[late], bits[late], table, now)
        self._stamps[spared] = _stamp(now)

    def _write(self, entries: Ints, keys: Hashes, bits: Hashes, table: Hashes, now: int) -> None:
        self._claimed[entries] = 0
        if self._used[Tier.NEAR]:
            self._near[entries] = 0
        if self._used[Tier.FAR]:
            self._far[entries] = 0
        self._keys[entries] = keys
        table[entries] = bits
        self._stamps[entries] = _stamp(now)

    def _free(self, entries: Ints) -> None:
        """Let others have those of some entries that are nobody's any more."""
        self._stamps[entries[self._anywhere(entries) == 0]] = 0

    def _clear(self, slot: int, *tables: Hashes) -> None:
        """Take a worker's bits from all entries."""
        if not self._used[Tier.NEAR] and not self._used[Tier.FAR]:
            tables = tuple([table for table in tables if table is self._claimed])
        group, bit = np.uint64(slot >> 6), _bit(slot)
        for table in tables:
            for start in range(0, len(self._keys), _AT_ONCE):
                held = start + np.flatnonzero(table[start : start + _AT_ONCE] & bit)
                held = held[self._keys[held] & _GROUP_MASK == group]
                if len(held):
                    table[held] &= ~bit
                    self._free(held)

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

    def _pairs(self, hashes: Hashes, slots: Ints) -> tuple[Hashes, Ints, Hashes]:
        """Return the keys and sets of blocks, each of its own worker, and the workers' bits."""
        keys = (hashes & _HASH_MASK) ^ self._group_marks.take(slots >> 6)
        return keys, self._sets_of(keys), _BITS.take(slots & 63)

    def _places(self, hashes: Hashes, group: int) -> tuple[Hashes, Ints]:
        """Return the keys of blocks for a group of workers, and the sets where they may be."""
        keys = (hashes & _HASH_MASK) ^ self._group_marks[group]
        return keys, self._sets_of(keys)

    def _sets_of(self, keys: Hashes) -> Ints:
        return (((keys >> _HALF_WORD) * self._sets) >> _HALF_WORD).view(np.int64)

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


def _bit(slot: int) -> np.uint64:
    bit: np.uint64 = _BITS[slot & 63]
    return bit


def _by_group(by_slot: Floats | None) -> Floats | None:
    return None if by_slot is None else by_slot[: _GROUPS * GROUP_WORKERS].reshape(_GROUPS, -1)
