"""Several real processes write into the shared tables and are killed at any instruction; what is read stays sane."""

import random
import time

import numpy as np

from extproc.index.block_hash import Hashes
from extproc.index.prefix_index import PrefixIndex
from extproc.index.sticky_map import StickyMap, bytes_for
from extproc.shm.layout import MAX_WORKERS, Part, Quantity
from extproc.shm.segment import Segment
from extproc.shm.worker_table import WorkerTable
from tests.support.processes import wait_until
from tests.support.table_writers import KEYS, SLOTS, WIDE, WORKER, nursery, prompt, workers_of

KILLS = 60
WRITERS = 3
ROUNDS = 10


def new_segment() -> Segment:
    segment = Segment.create({Part.PREFIX_INDEX: 400 * 160, Part.STICKY_MAP: bytes_for(16)})
    StickyMap.prepare(segment.part(Part.STICKY_MAP))
    return segment


def test_the_prefix_index_survives_killed_writers() -> None:
    """Four processes with prompts that begin alike, in a table that is always full."""
    segment = new_segment()
    index = PrefixIndex(memory=segment.part(Part.PREFIX_INDEX), clock=time.monotonic)
    rng = random.Random(1)
    partly = 0

    def one_more(hashes: Hashes) -> float:
        index.record(hashes, 63)
        depths = index.match(hashes, SLOTS)
        assert 0 <= depths.min() <= depths.max() <= len(hashes)
        return float(depths[0])

    with nursery(segment) as writers:
        running = [writers.start("prefixes") for _ in range(WRITERS)]
        for _ in range(KILLS):
            partly += sum(one_more(prompt(rng)) > 0 for _ in range(ROUNDS))
            writers.kill(running.pop(0))
            running.append(writers.start("prefixes"))
        for pid in running:
            writers.kill(pid)
    assert partly > KILLS
    capacity, blocks = index.state()
    assert blocks <= capacity
    # Nothing that was left half-way stands in the way of the next prompt.
    final = np.random.default_rng(99).integers(1 << 10, 1 << 63, 100, dtype=np.uint64)
    index.record(final, 700)
    assert index.match(final, SLOTS).tolist() == [0, 0, 0, 0, 100]
    for slot in range(MAX_WORKERS):
        index.clear_worker(slot)
    assert index.state().blocks == 0


def test_the_sticky_map_never_pairs_a_key_with_another_keys_workers() -> None:
    """One writer at a time, which is killed, over a map that is always full; readers look all the while."""
    segment = new_segment()
    stickies = StickyMap(segment.part(Part.STICKY_MAP))
    found = 0
    with nursery(segment) as writers:
        for _ in range(KILLS):
            pid = writers.start("stickies")
            for key in range(1, KEYS + 1):
                sticky = stickies.find(key)
                assert sticky is None or sticky.workers == workers_of(key)
                found += sticky is not None
            writers.kill(pid)
            for key in range(1, KEYS + 1):
                sticky = stickies.find(key)
                assert sticky is None or sticky.workers == workers_of(key)
    assert found > KILLS
    for key in range(1, KEYS + 1):
        stickies.put(key, (key,), 1 << 41)
        sticky = stickies.find(key)
        assert sticky is not None
        assert sticky.workers == (key,)


def test_columns_of_killed_processes_are_readable_and_cleared() -> None:
    segment = new_segment()
    table = WorkerTable(segment)
    sent_before = 0
    with nursery(segment) as writers:
        for _ in range(KILLS):
            pid = writers.start("columns")
            for _ in range(ROUNDS):
                requests, decode, sent, blocks = table.sums(MAX_WORKERS)[:, WORKER].tolist()
                assert requests in {0, 1}
                assert decode in {0, 100}
                assert sent >= sent_before
                assert blocks >= 0
                sent_before = sent
            writers.kill(pid)
            sent_before = int(table.totals(Quantity.SENT_TOKENS)[WORKER])
            for slot in range(4):
                table.clear_column(slot)
            assert table.sums(MAX_WORKERS)[: Quantity.SENT_TOKENS].sum() == 0
            assert table.totals(Quantity.SENT_TOKENS)[WORKER] == sent_before


def test_a_number_is_never_seen_half_written() -> None:
    """Neither when it is read alone nor when many are read at once."""
    segment = new_segment()
    table = WorkerTable(segment)
    place = Quantity.DECODE_TOKENS * MAX_WORKERS + WORKER
    column_words = len(Quantity) * MAX_WORKERS
    alone: set[int] = set()
    summed: set[int] = set()

    def look() -> bool:
        for _ in range(2000):
            alone.update(table._column_words[place + process * column_words] for process in range(4))
            summed.add(int(table.sums(WORKER + 1)[Quantity.DECODE_TOKENS, WORKER]))
        return len(alone) == len(summed) == 2

    with nursery(segment) as writers:
        pid = writers.start("wide")
        for _ in range(ROUNDS):
            look()
        wait_until(look)
        writers.kill(pid)
    assert alone == summed == {0, WIDE}
