"""The token cache's store: ids and block hashes of prompts, shared by all processes of the service.

::

    offset                     part
    0            4 KiB         header: number of claims, evictions, secret; models whose prefixes proved wrong
    4 KiB        1/16          rows: keys of prefixes                                  (token_rows.py)
    ...          64 B each     chunk table                                             (token_chunks.py)
    ...          the rest      chunks: extents, each appended once and never changed

An **extent** holds what one request added to what was known::

    word 0      claim of its chunk                        word 4      place of its parent, chunk << 32 | offset / 64
    word 1      checksum of words 2 to 7 and the payload  word 5      claim of its parent; 0: it has none
    word 2      number of ids                             word 6      tokens that it takes from its parent
    word 3      number of block hashes                    word 7      how many ancestors it has
    then the ids (32 bits each, padded to 8 bytes) and the hashes of the blocks that end in them (64 bits each)

So a conversation that grows by a turn adds an extent of that turn, and two users of one system prompt share its extent.
A **row** names a prefix: the first so many tokens of the prompt that ends with an extent.

Nobody waits for anybody, and a process may be killed at any instruction: what is read is copied first and then held
against its checksum and the claim it was written under, so an extent that is half written, overwritten while it is read
or left by an earlier owner of its chunk is not found. Memory is bounded by the size of the store and only used as far
as it is written.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self, TypeVar

import numpy as np
import numpy.typing as npt
import xxhash

from extproc.shm.layout import Part
from extproc.shm.segment import Segment
from extproc.shm.token_chunks import ENTRY_WORDS, ChunkTable
from extproc.shm.token_rows import PLACE_UNIT, ROW_BYTES, WAYS, Key, Row, RowTable

MIN_STORE_BYTES = 16 << 20
MAX_DEPTH = 12
"""An extent with this many ancestors is followed by one that holds the whole prompt: reading visits every ancestor."""

_HEADER_BYTES = 4096
_SECRET_WORD = 2
_REVOKED_WORDS = slice(8, 72)
_HEAD = struct.Struct("=2Q")
_CHECKED_HEAD = struct.Struct("=6Q")
_EXTENT_HEADER_BYTES = _HEAD.size + _CHECKED_HEAD.size
_WORD = 8
_MIN_CHUNK_BYTES, _MAX_CHUNK_BYTES, _CHUNKS = 64 << 10, 1 << 20, 256
_FEW_KEYS = 8
"""So many are looked up one by one: mostly all but the last turn of a conversation is known."""

T = TypeVar("T", np.uint32, np.uint64)
Ids = npt.NDArray[np.uint32]
Hashes = npt.NDArray[np.uint64]


class Prefix(NamedTuple):
    """What is known of the start of a prompt: its ids and the hashes of its whole blocks, in pieces, in order."""

    id_parts: list[Ids]
    hash_parts: list[Hashes]
    row: Row
    depth: int

    @property
    def ids(self) -> Ids:
        """All ids."""
        return _joined(self.id_parts)

    @property
    def hashes(self) -> Hashes:
        """All hashes."""
        return _joined(self.hash_parts)

    @property
    def blocks(self) -> int:
        """The number of hashes."""
        return sum(map(len, self.hash_parts))

    @property
    def last_hash(self) -> int | None:
        """The last hash, or None when there is none."""
        return next((int(part[-1]) for part in reversed(self.hash_parts) if len(part)), None)


def _extent_bytes(ids: int, hashes: int) -> int:
    return _EXTENT_HEADER_BYTES + ((ids + 1) // 2 + hashes) * _WORD


def _joined(parts: list[npt.NDArray[T]]) -> npt.NDArray[T]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


class StoreState(NamedTuple):
    """How full the store is."""

    capacity_bytes: int
    used_bytes: int
    rows: int
    max_rows: int
    evictions: int


class _Extent(NamedTuple):
    ids: Ids
    hashes: Hashes
    parent: Row | None
    depth: int


class TokenStore:
    """One process's access to the store in ``memory``; ``fd`` is the segment, for its lock.

    All processes give the same memory. Any thread of a process may use the object.
    """

    def __init__(self, *, memory: memoryview, fd: int) -> None:
        self._header = memory[:_HEADER_BYTES].cast("Q")
        row_sets = 1 << ((len(memory) // 16 // (ROW_BYTES * WAYS)).bit_length() - 1)
        rows_end = _HEADER_BYTES + row_sets * ROW_BYTES * WAYS
        left = len(memory) - rows_end
        self._chunk_bytes = min(max(left // _CHUNKS, _MIN_CHUNK_BYTES), _MAX_CHUNK_BYTES) // PLACE_UNIT * PLACE_UNIT
        chunks = left // (self._chunk_bytes + ENTRY_WORDS * _WORD)
        table_end = rows_end + chunks * ENTRY_WORDS * _WORD
        self._chunks_memory = memory[table_end:]
        self._chunks = ChunkTable(
            words=memory[rows_end:table_end].cast("Q"),
            counters=self._header[:2],
            fd=fd,
            chunk_bytes=self._chunk_bytes,
        )
        self._rows = RowTable(memory=memory[_HEADER_BYTES:rows_end], claims=self._chunks.claims)
        self.unstored = 0
        """Prompts that were not stored because another process was claiming a chunk at that moment."""

    @classmethod
    def of_segment(cls, segment: Segment) -> Self | None:
        """Return the store of the service's segment, or None when the service has none."""
        memory = segment.part(Part.TOKEN_STORE)
        return cls(memory=memory, fd=segment.fd) if len(memory) else None

    @staticmethod
    def prepare(memory: memoryview) -> None:
        """Make fresh zeroed memory a store; done once, before any other process has it.

        The secret seeds all keys, so that nobody outside can prepare two prompts with one key.
        """
        memory[_SECRET_WORD * _WORD : (_SECRET_WORD + 1) * _WORD] = os.urandom(_WORD)

    @property
    def secret(self) -> int:
        """Seed of all keys, the same in all processes."""
        return self._header[_SECRET_WORD]

    def find(self, key: Key, *, block_size: int) -> Prefix | None:
        """Return the prefix that ``key`` leads to, or None when there is none that is whole and valid."""
        row = self._rows.find(key)
        return None if row is None else self._read(row, block_size)

    def find_last(self, keys: Sequence[Key], *, block_size: int) -> tuple[int, Prefix | None]:
        """Return the last of ``keys`` that leads to a prefix, and that prefix; else -1 and None."""
        gone = set()
        for index in self._candidates(keys):
            row = self._rows.find(keys[index])
            # Many keys lead to one extent, and if that or an ancestor is gone, it is for all of them.
            if row is None or (row.claim, row.place) in gone:
                continue
            prefix = self._read(row, block_size)
            if prefix is not None:
                return index, prefix
            gone.add((row.claim, row.place))
        return -1, None

    def has(self, key: Key) -> bool:
        """Whether there is a row for ``key``."""
        return self._rows.find(key) is not None

    def put(
        self,
        *,
        parent: Row | None,
        depth: int,
        ids: Ids,
        hashes: Hashes,
        block_size: int,
        keys: Sequence[Key],
        tokens: Sequence[int],
        sizes: Sequence[int],
    ) -> None:
        """Store what follows ``parent``: its ids, the hashes of the blocks that end in them, and keys of prefixes.

        ``depth`` is the number of ancestors, ``tokens[i]`` and ``sizes[i]`` the length of the prefix with ``keys[i]``
        in tokens, those of ``parent`` included, and in bytes of text. What is longer than a chunk becomes a chain, and
        a key leads to that extent of it in which its prefix ends: what comes after is not read then.
        """
        taken = parent.tokens if parent else 0
        room = self.extent_tokens(block_size)
        first = 0
        before = 0
        entries = list(zip(keys, tokens, sizes, strict=True))
        while True:
            last = min(first + room, len(ids))
            until = (taken + last) // block_size - taken // block_size
            row = self._append(parent, depth, ids[first:last], hashes[before:until])
            if row is None:
                self.unstored += 1
                return
            self._rows.put(row.claim, row.place, [entry for entry in entries if entry[1] <= taken + last])
            if last == len(ids):
                break
            entries = [entry for entry in entries if entry[1] > taken + last]
            parent, depth, first, before = row._replace(tokens=taken + last), depth + 1, last, until

    def link(self, row: Row, *, keys: Sequence[Key], tokens: Sequence[int], sizes: Sequence[int]) -> None:
        """Store keys of prefixes of the prompt that ends with ``row``'s extent."""
        self._rows.put(row.claim, row.place, zip(keys, tokens, sizes, strict=True))

    def extent_tokens(self, block_size: int) -> int:
        """Return how many tokens fit into one extent at least."""
        return (self._chunk_bytes - _EXTENT_HEADER_BYTES - 2 * _WORD) * block_size // (4 * block_size + _WORD) - 1

    def flush(self) -> bool:
        """Forget everything; False when another process was claiming a chunk at that moment."""
        # A row counts only while the chunk that it leads to has the claim it had when the row was written.
        return self._chunks.clear()

    def revoke(self, model: int) -> None:
        """Tell all processes that prefixes of ``model`` (a hash of it) have proved wrong."""
        revoked = self._header[_REVOKED_WORDS]
        known = revoked.tolist()
        if model not in known and 0 in known:
            revoked[known.index(0)] = model

    def revoked(self) -> frozenset[int]:
        """Models whose prefixes have proved wrong."""
        return frozenset(self._header[_REVOKED_WORDS].tolist()) - {0}

    def state(self) -> StoreState:
        """How full the store is; the number of rows of a large one is an estimate."""
        return StoreState(
            capacity_bytes=self._chunks.count * self._chunk_bytes,
            used_bytes=self._chunks.used_bytes,
            rows=self._rows.count(),
            max_rows=self._rows.capacity,
            evictions=self._chunks.evictions,
        )

    def _candidates(self, keys: Sequence[Key]) -> Iterator[int]:
        """Yield the indices of keys that may be there, the last first."""
        few = max(0, len(keys) - _FEW_KEYS)
        yield from range(len(keys) - 1, few - 1, -1)
        if few:
            yield from np.flatnonzero(self._rows.present(np.array(keys[:few], dtype=np.uint64)))[::-1].tolist()

    def _append(self, parent: Row | None, depth: int, ids: Ids, hashes: Hashes) -> Row | None:
        size = _extent_bytes(len(ids), len(hashes))
        allocated = self._chunks.allocate(-(-size // PLACE_UNIT) * PLACE_UNIT)
        if allocated is None:
            return None
        chunk, claim, offset = allocated
        place, parent_claim, taken = (parent.place, parent.claim, parent.tokens) if parent else (0, 0, 0)
        head = _CHECKED_HEAD.pack(len(ids), len(hashes), place, parent_claim, taken, depth)
        padding = b"" if len(ids) % 2 == 0 else b"\0\0\0\0"
        checked = b"".join((head, ids.tobytes(), padding, hashes.tobytes()))
        start = chunk * self._chunk_bytes + offset
        self._chunks_memory[start : start + size] = (
            _HEAD.pack(claim, xxhash.xxh3_64_intdigest(checked, seed=claim)) + checked
        )
        return Row(claim, chunk << 32 | offset // PLACE_UNIT, taken + len(ids), 0)

    def _read(self, row: Row, block_size: int) -> Prefix | None:
        """Gather the first ``row.tokens`` ids from an extent and its ancestors, or None when one of them is gone."""
        ids: list[Ids] = []
        hashes: list[Hashes] = []
        tip: Row | None = None
        depth = 0
        wanted = row.tokens
        at: Row | None = row
        while at is not None:
            extent = self._extent(at)
            if extent is None:
                return None
            taken = extent.parent.tokens if extent.parent else 0
            if wanted > taken:
                if tip is None:
                    tip, depth = at._replace(tokens=row.tokens, bytes=row.bytes), extent.depth
                ids.append(extent.ids[: wanted - taken])
                hashes.append(extent.hashes[: wanted // block_size - taken // block_size])
                wanted = taken
            at = extent.parent
        if tip is None or wanted:
            return None
        return Prefix(ids[::-1], hashes[::-1], tip, depth)

    def _extent(self, at: Row) -> _Extent | None:
        chunk, offset = at.chunk, at.offset
        if chunk >= self._chunks.count or offset + _EXTENT_HEADER_BYTES > self._chunk_bytes:
            return None
        start = chunk * self._chunk_bytes + offset
        header = self._chunks_memory[start : start + _EXTENT_HEADER_BYTES].cast("Q").tolist()
        claim, _, id_count, hash_count = header[:4]
        size = _extent_bytes(id_count, hash_count)
        if claim != at.claim or size > self._chunk_bytes - offset:
            return None
        # Copied first: what is checked and what is used must be the same bytes.
        content = bytes(self._chunks_memory[start : start + size])
        words = memoryview(content)[:_EXTENT_HEADER_BYTES].cast("Q").tolist()
        if words[2:4] != header[2:4] or words[0] != claim:
            return None
        if xxhash.xxh3_64_intdigest(memoryview(content)[2 * _WORD :], seed=claim) != words[1]:
            return None
        self._chunks.touch(chunk)
        parent = Row(words[5], words[4], words[6], 0) if words[5] else None
        return _Extent(
            np.frombuffer(content, np.uint32, id_count, _EXTENT_HEADER_BYTES),
            np.frombuffer(content, np.uint64, hash_count, size - hash_count * _WORD),
            parent,
            words[7],
        )
