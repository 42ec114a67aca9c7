"""The token store beside LMDB, the library that would do its job: the same entries and look-ups, in one process."""

import struct
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from statistics import median
from time import perf_counter

import lmdb
import numpy as np

from extproc.index.block_hash import Hashes, Ids
from extproc.shm.token_store import TokenStore
from tests.support.stores import BLOCK_SIZE, hashes_of, ids_of, key, make_segment, open_store

TOKENS = 12_000
ENTRIES = 400
ROUNDS = 5
_BYTES = struct.Struct("=2Q")


def compare_stores() -> Iterator[tuple[str, float, float]]:
    """Yield what was done, and the seconds that ours and LMDB took for it."""
    ids = ids_of(1, TOKENS)
    hashes = hashes_of(ids)
    value = ids.tobytes() + hashes.tobytes()
    store = open_store(make_segment(256 << 20))
    with tempfile.TemporaryDirectory(prefix="extproc-bench-", dir="/dev/shm") as name:
        environment = lmdb.open(
            str(Path(name, "lmdb")), map_size=256 << 20, writemap=True, sync=False, metasync=False, map_async=True
        )

        def put_theirs(number: int) -> None:
            with environment.begin(write=True) as transaction:
                transaction.put(_BYTES.pack(*key(number)), value)

        def get_theirs(number: int) -> object:
            with environment.begin(buffers=True) as transaction:
                found = transaction.get(_BYTES.pack(*key(number % ENTRIES)))
                assert found is not None
                return np.frombuffer(found, dtype=np.uint32).copy()

        def miss_theirs(number: int) -> object:
            with environment.begin(buffers=True) as transaction:
                return transaction.get(_BYTES.pack(*key(10_000_000 + number)))

        yield "put 48 KB", _seconds(lambda number: _put(store, number, ids, hashes)), _seconds(put_theirs)
        get_ours = _seconds(lambda number: store.find(key(number % ENTRIES), block_size=BLOCK_SIZE))
        yield "get 48 KB", get_ours, _seconds(get_theirs)
        miss_ours = _seconds(lambda number: store.find(key(10_000_000 + number), block_size=BLOCK_SIZE))
        yield "miss", miss_ours, _seconds(miss_theirs)


def _put(store: TokenStore, number: int, ids: Ids, hashes: Hashes) -> None:
    store.put(
        parent=None,
        depth=0,
        ids=ids,
        hashes=hashes,
        block_size=BLOCK_SIZE,
        keys=[key(number)],
        tokens=[len(ids)],
        sizes=[4 * len(ids)],
    )


def _seconds(work: Callable[[int], object]) -> float:
    """The median over rounds of the mean time of ``work``, over as many entries as a round has."""
    numbers = count()
    rounds = []
    for _ in range(ROUNDS + 1):
        started = perf_counter()
        for _ in range(ENTRIES):
            work(next(numbers))
        rounds.append((perf_counter() - started) / ENTRIES)
    return median(rounds[1:])
