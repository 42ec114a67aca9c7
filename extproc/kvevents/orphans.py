"""Events that wait for the block they follow: an engine announced what comes after a block that is not known here.

The block may still be announced. Until then the blocks of such an event stand nowhere; what is heard of their removal
meanwhile is noted.
"""

from collections import OrderedDict
from collections.abc import Sequence

from extproc.index.block_hash import Hashes
from extproc.kvevents.events import EngineHash


class Orphan:
    """One event.

    ``sums`` are those of all own blocks, ``size`` of them in each of the engine's; the first ``good`` of these can be
    placed. ``alive`` tells which copies were not removed meanwhile.
    """

    __slots__ = ("alive", "good", "hashes", "parent", "since", "size", "sums", "tier")

    def __init__(
        self,
        *,
        hashes: Sequence[EngineHash],
        parent: EngineHash,
        sums: Hashes,
        size: int,
        good: int,
        tier: int,
        since: float,
    ) -> None:
        self.hashes = hashes
        self.parent = parent
        self.sums = sums
        self.size = size
        self.good = good
        self.tier = tier
        self.since = since
        self.alive = [True] * len(hashes)


class Orphans:
    """At most ``most`` events and ``most_blocks`` own blocks wait; the oldest give way, and are counted."""

    def __init__(self, *, most: int, most_blocks: int) -> None:
        self.rejected = 0
        self._most = most
        self._most_blocks = most_blocks
        self._blocks = 0
        self._all: OrderedDict[Orphan, None] = OrderedDict()
        self._by_parent: dict[EngineHash, list[Orphan]] = {}
        self._by_hash: dict[EngineHash, list[Orphan]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def add(self, orphan: Orphan) -> None:
        """Let an event wait."""
        self._all[orphan] = None
        self._blocks += len(orphan.sums)
        self._by_parent.setdefault(orphan.parent, []).append(orphan)
        for name in dict.fromkeys(orphan.hashes):
            self._by_hash.setdefault(name, []).append(orphan)
        while len(self._all) > self._most or self._blocks > self._most_blocks:
            self._reject()

    def removed(self, name: EngineHash, tier: int) -> None:
        """Note that a copy of a block is gone, if it is one of those that wait."""
        for orphan in self._by_hash.get(name, ()):
            if orphan.tier != tier:
                continue
            for place, other in enumerate(orphan.hashes):
                if other == name and orphan.alive[place]:
                    orphan.alive[place] = False
                    return

    def take(self, parent: EngineHash) -> list[Orphan]:
        """Return the events that waited for a block, in order, which then wait no more."""
        orphans = self._by_parent.get(parent, [])[:]
        for orphan in orphans:
            self._drop(orphan)
        return orphans

    def expire(self, before: float) -> None:
        """Reject what waits since before a moment."""
        while self._all and next(iter(self._all)).since < before:
            self._reject()

    def clear(self) -> None:
        """Forget them all."""
        self._all.clear()
        self._by_parent.clear()
        self._by_hash.clear()
        self._blocks = 0

    def _reject(self) -> None:
        self._drop(next(iter(self._all)))
        self.rejected += 1

    def _drop(self, orphan: Orphan) -> None:
        del self._all[orphan]
        self._blocks -= len(orphan.sums)
        _take_out(self._by_parent, orphan.parent, orphan)
        for name in dict.fromkeys(orphan.hashes):
            _take_out(self._by_hash, name, orphan)


def _take_out(lists: dict[EngineHash, list[Orphan]], name: EngineHash, orphan: Orphan) -> None:
    orphans = lists[name]
    orphans.remove(orphan)
    if not orphans:
        del lists[name]
