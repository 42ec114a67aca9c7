"""Token stores for tests, and prompts whose ids can be told from their key."""

import numpy as np

from extproc.index.block_hash import Hashes, Ids, block_hashes
from extproc.shm.layout import Part
from extproc.shm.segment import Segment
from extproc.shm.token_rows import Key
from extproc.shm.token_store import MIN_STORE_BYTES, Prefix, TokenStore

BLOCK_SIZE = 16


def make_segment(store_bytes: int = MIN_STORE_BYTES) -> Segment:
    segment = Segment.create({Part.TOKEN_STORE: store_bytes})
    TokenStore.prepare(segment.part(Part.TOKEN_STORE))
    return segment


def open_store(segment: Segment) -> TokenStore:
    return TokenStore(memory=segment.part(Part.TOKEN_STORE), fd=segment.fd)


def key(number: int) -> Key:
    """A key that no other number has, spread over the table."""
    return number * 0x9E3779B97F4A7C15 % 2**64, number


def ids_of(number: int, length: int) -> Ids:
    return np.random.default_rng(number).integers(0, 1 << 17, length, dtype=np.uint32)


def hashes_of(ids: Ids) -> Hashes:
    return block_hashes(ids, block_size=BLOCK_SIZE, before=1)


def put(store: TokenStore, ids: Ids, keys: dict[int, int], *, parent: Prefix | None = None) -> None:
    """Store a prompt that ``parent`` begins, with the key numbers of prefixes and their lengths in tokens."""
    taken = 0 if parent is None else len(parent.ids)
    store.put(
        parent=None if parent is None else parent.row,
        depth=0 if parent is None else parent.depth + 1,
        ids=ids[taken:],
        hashes=hashes_of(ids)[taken // BLOCK_SIZE :],
        block_size=BLOCK_SIZE,
        keys=[key(number) for number in keys],
        tokens=list(keys.values()),
        sizes=[4 * length for length in keys.values()],
    )


def find(store: TokenStore, number: int) -> Prefix | None:
    return store.find(key(number), block_size=BLOCK_SIZE)


def is_prefix(found: Prefix | None, ids: Ids, length: int) -> bool:
    """Whether exactly the first ``length`` of ``ids`` were found, with their hashes."""
    return (
        found is not None
        and np.array_equal(found.ids, ids[:length])
        and np.array_equal(found.hashes, hashes_of(ids[:length]))
    )
