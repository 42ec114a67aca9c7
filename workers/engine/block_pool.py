"""The paged KV cache: blocks that sequences hold, and blocks that only cache prefixes until somebody needs room.

As vLLM's block pool: a block is free when no sequence holds it, and free blocks keep what they cache until they are
given out again, in the order in which they became free; the last blocks of a sequence become free first, so a prefix is
lost from its end. One hash may be in several blocks, as two sequences may compute the same at once; each is stored and
evicted on its own.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence


class BlockPool:
    """``size`` blocks. ``on_evicted`` is called with the hash of each cached block that is given out again.

    Hashes stand for whole prefixes. All times are constant, per block.
    """

    def __init__(self, size: int, *, on_evicted: Callable[[int], None]) -> None:
        self.size = size
        self.evictions = 0
        self._on_evicted = on_evicted
        self._never_used = size
        self._holders = [0] * size
        self._hashes: list[int | None] = [None] * size
        self._free: OrderedDict[int, None] = OrderedDict()
        self._by_hash: dict[int, int] = {}
        self._copies: dict[int, list[int]] = {}

    @property
    def free(self) -> int:
        """How many blocks can be given out."""
        return self._never_used + len(self._free)

    @property
    def usage(self) -> float:
        """Share of the blocks that sequences hold."""
        return 1.0 - self.free / self.size

    def cached(self, hashes: Iterable[int]) -> list[int]:
        """Return the blocks of the longest cached prefix, whether held or free."""
        blocks = []
        by_hash = self._by_hash
        for block_hash in hashes:
            block = by_hash.get(block_hash)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def holds(self, block_hash: int) -> bool:
        """Whether a block is cached."""
        return block_hash in self._by_hash

    def count_free(self, blocks: Sequence[int]) -> int:
        """Return how many of some blocks nobody holds."""
        holders = self._holders
        return sum([not holders[block] for block in blocks])

    def hold(self, blocks: Iterable[int]) -> None:
        """Let one more sequence hold cached blocks."""
        holders, free = self._holders, self._free
        for block in blocks:
            if not holders[block]:
                del free[block]
            holders[block] += 1

    def take(self, count: int) -> list[int]:
        """Give out blocks; there must be as many."""
        fresh = min(count, self._never_used)
        start = self.size - self._never_used
        blocks = list(range(start, start + fresh))
        self._never_used -= fresh
        for _ in range(count - fresh):
            block, _ = self._free.popitem(last=False)
            block_hash = self._hashes[block]
            if block_hash is not None:
                self._forget(block, block_hash)
            blocks.append(block)
        holders = self._holders
        for block in blocks:
            holders[block] = 1
        return blocks

    def store(self, block: int, block_hash: int) -> None:
        """Note what a held block caches."""
        self._hashes[block] = block_hash
        first = self._by_hash.setdefault(block_hash, block)
        if first != block:
            self._copies.setdefault(block_hash, []).append(block)

    def release(self, blocks: Sequence[int]) -> None:
        """Let a sequence hold its blocks, in their order, no longer."""
        holders, free = self._holders, self._free
        for block in reversed(blocks):
            holders[block] -= 1
            if not holders[block]:
                free[block] = None

    def clear(self) -> None:
        """Forget what is cached; what sequences hold stays theirs."""
        self._hashes = [None] * self.size
        self._by_hash.clear()
        self._copies.clear()

    def _forget(self, block: int, block_hash: int) -> None:
        self._hashes[block] = None
        self.evictions += 1
        copies = self._copies.get(block_hash)
        if copies is None:
            del self._by_hash[block_hash]
        else:
            if self._by_hash[block_hash] == block:
                self._by_hash[block_hash] = copies.pop()
            else:
                copies.remove(block)
            if not copies:
                del self._copies[block_hash]
        self._on_evicted(block_hash)
