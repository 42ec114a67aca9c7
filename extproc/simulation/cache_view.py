"""What a service knows of the engines' caches from their events."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from extproc.index.prefix_index import PrefixIndex, Tier
from workers.engine.events import Cleared, Removed, Stored


class CacheView:
    """Keeps a prefix index in step with the events of ``workers`` engines, in whose blocks prompts are hashed.

    A block may be stored several times, and each copy is removed on its own: it is there as long as one of them is. The
    engines count as precise from then on.
    """

    def __init__(self, prefixes: PrefixIndex, *, workers: int) -> None:
        self._prefixes = prefixes
        self._copies: list[Counter[int]] = [Counter() for _ in range(workers)]
        for slot in range(workers):
            prefixes.set_precise(slot, precise=True)

    def apply(self, slot: int, events: Sequence[object]) -> None:
        """Take what one engine's cache gained and lost, in order."""
        copies = self._copies[slot]
        gained: list[int] = []
        lost: list[int] = []
        for event in events:
            if isinstance(event, Stored):
                copies.update(event.hashes)
                gained += event.hashes
            elif isinstance(event, Removed):
                copies[event.block_hash] -= 1
                lost.append(event.block_hash)
            elif isinstance(event, Cleared):
                copies.clear()
                gained.clear()
                lost.clear()
                self._prefixes.clear_worker(slot)
        gone = [block_hash for block_hash in lost if copies[block_hash] <= 0]
        for block_hash in gone:
            copies.pop(block_hash, None)
        there = [block_hash for block_hash in gained if copies[block_hash] > 0]
        if there:
            self._prefixes.hold(np.array(there, np.uint64), np.full(len(there), slot), tier=Tier.NEAR)
        if gone:
            self._prefixes.release(np.array(gone, np.uint64), np.full(len(gone), slot), tier=Tier.NEAR)
