"""Which workers a routing key was sent to: a table shared by all processes.

::

    memory    secret (64 bits, padded to 64 bytes), then sets of 8 entries; an entry is
                key        64 bits    hash of the routing key, seeded with the secret; 0: empty
                first      64 bits    fingerprint of a worker's id
                second     64 bits    fingerprint of another one; 0: none
                last_used  64 bits    seconds of the clock when it was last asked for

A set that is full gives up the entry that was used longest ago, so memory is bounded and the map as a whole forgets
about the least recently used. Keys are never stored, only their hashes; the secret keeps clients from finding two keys
with one hash.

Everybody reads and writes without a lock. An entry is written as: no key, workers, time, key. A torn read: two
processes that assign one key at the same moment may each keep their own choice for a request; whoever writes last
decides for the next one. Two that take one entry for two keys at the same moment may leave one of the keys with a
worker of the other, where it then stays. An entry that is half written when its process is killed has no key and is
taken again.
"""

import os
from typing import NamedTuple

import numpy as np
import xxhash

WAYS = 8
_ENTRY_WORDS = 4
_SET_WORDS = WAYS * _ENTRY_WORDS
_HEADER_WORDS = 8
_WORD_BYTES = 8
_KEY, _FIRST, _SECOND, _LAST_USED = range(_ENTRY_WORDS)
_PART_SETS = 1 << 12


class Sticky(NamedTuple):
    """Where a key was sent: fingerprints of one or two workers, in the order in which they were assigned."""

    workers: tuple[int, ...]
    last_used: int


def fingerprint(worker_id: str) -> int:
    """Return what stands for a worker in the map: the same in every process and after a worker's return."""
    return xxhash.xxh3_64_intdigest(worker_id.encode()) or 1


def bytes_for(entries: int) -> int:
    """Return the memory that a map of at most so many entries takes."""
    return (_HEADER_WORDS + max(entries // WAYS, 1) * _SET_WORDS) * _WORD_BYTES


class StickyMap:
    """One process's access to the map in ``memory``. Times are whole seconds of one clock."""

    def __init__(self, memory: memoryview) -> None:
        words = memory.cast("Q")
        self._secret = words[0]
        self._entries = words[_HEADER_WORDS:]
        self._sets = len(self._entries) // _SET_WORDS

    @staticmethod
    def prepare(memory: memoryview, *, secret: bytes | None = None) -> None:
        """Make fresh zeroed memory a map; done once, before any other process has it. A ``secret`` has 8 bytes."""
        memory[:_WORD_BYTES] = os.urandom(_WORD_BYTES) if secret is None else secret

    @property
    def capacity(self) -> int:
        """How many entries fit."""
        return self._sets * WAYS

    def hash_of(self, key: str) -> int:
        """Return the hash under which a routing key is kept."""
        return xxhash.xxh3_64_intdigest(key.encode(), seed=self._secret) or 1

    def find(self, key_hash: int) -> Sticky | None:
        """Return where a key was sent, or None when it is not known."""
        start, words = self._set_of(key_hash)
        for at in range(0, _SET_WORDS, _ENTRY_WORDS):
            if words[at] == key_hash and self._entries[start + at] == key_hash:
                workers = tuple([worker for worker in words[at + _FIRST : at + _LAST_USED] if worker])
                return Sticky(workers, words[at + _LAST_USED])
        return None

    def touch(self, key_hash: int, now: int) -> None:
        """Note that a key is in use."""
        start, words = self._set_of(key_hash)
        for at in range(0, _SET_WORDS, _ENTRY_WORDS):
            if words[at] == key_hash:
                self._entries[start + at + _LAST_USED] = now
                return

    def put(self, key_hash: int, workers: tuple[int, ...], now: int) -> None:
        """Keep one or two workers for a key, in place of what was kept."""
        start, words = self._set_of(key_hash)
        places = range(0, _SET_WORDS, _ENTRY_WORDS)
        at = next((at for at in places if words[at] == key_hash), None)
        if at is None:
            at = min(places, key=lambda place: (words[place] != 0, words[place + _LAST_USED]))
        entries = self._entries
        entries[start + at] = 0
        entries[start + at + _FIRST] = workers[0]
        entries[start + at + _SECOND] = workers[1] if len(workers) > 1 else 0
        entries[start + at + _LAST_USED] = now
        entries[start + at] = key_hash

    @property
    def parts(self) -> int:
        """How many parts it has: each can be counted at once without holding up anything else."""
        return -(-self._sets // _PART_SETS)

    def part_of(self, key_hash: int) -> int:
        """Return the part in which a key lies."""
        return key_hash % self._sets // _PART_SETS

    def groups(self, part: int, *, now: int, max_idle_secs: int) -> dict[int, int]:
        """Return how many keys in use of a part each worker (by fingerprint) was given last."""
        first = part * _PART_SETS * _SET_WORDS
        words = np.frombuffer(self._entries, np.uint64)[first : first + _PART_SETS * _SET_WORDS]
        entries = words.reshape(-1, _ENTRY_WORDS)
        used = entries[(entries[:, _KEY] != 0) & (entries[:, _LAST_USED] + np.uint64(max_idle_secs) >= np.uint64(now))]
        workers = np.where(used[:, _SECOND] != 0, used[:, _SECOND], used[:, _FIRST])
        found, counts = np.unique(workers, return_counts=True)
        return dict(zip(found.tolist(), counts.tolist(), strict=True))

    def _set_of(self, key_hash: int) -> tuple[int, list[int]]:
        start = key_hash % self._sets * _SET_WORDS
        return start, self._entries[start : start + _SET_WORDS].tolist()
