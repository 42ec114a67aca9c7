"""The blocks that an engine has named: what they are in our hashes, and how many copies each tier has of them.

An entry is a number into arrays, so that a block takes no objects but its two hashes::

    index    engine's hash -> entry
    arrays   own hashes     as many as own blocks fit in a block of the engine, from the entry's number on
             depths         own blocks of the prompt up to the end of the block
             sizes          its own blocks; 0: not placed, nor is anything that follows it
             copies         of each tier
             born           when the GPU got its first copy
    held     own hash -> entries that hold it, of each tier: two engine's hashes may be one of ours, as where its blocks
             are longer and begin alike

An entry outlives its last copy, as other blocks may still name it as the one before them; when there is no more room,
those go first that have had no copy for longest, and then those that have been in a lower tier alone for longest, as
some of these are never said to be removed.
"""

import itertools
from array import array
from collections import deque
from collections.abc import Callable, Sequence

from extproc.index.prefix_index import Tier
from extproc.kvevents.events import EngineHash

TIERS = NEAR, FAR = int(Tier.NEAR), int(Tier.FAR)
"""The tiers of the prefix index, as plain numbers: they are used for every block."""
MAX_LIFETIMES = 4096
NEVER = float("inf")
_GROWTH = 1024
"""Places that are added at a time."""


class Entries:
    """At most ``most`` own blocks, or names of blocks that are not placed."""

    def __init__(self, *, most: int) -> None:
        self.lifetimes: deque[float] = deque(maxlen=MAX_LIFETIMES)
        self.forgotten = 0
        self._most = most
        self.cleared = False
        self.index: dict[EngineHash, int] = {}
        self.lost: tuple[set[int], set[int]] = (set(), set())
        self.clear()

    def clear(self) -> None:
        """Forget everything, and that any of it was told."""
        told = self.cleared or bool(self.index) or any(self.lost)
        self.index = {}
        self.own = array("Q")
        self.depths = array("I")
        self.sizes = array("I")
        self.copies = (array("I"), array("I"))
        self.held: tuple[dict[int, int], dict[int, int]] = ({}, {})
        self.gained: tuple[set[int], set[int]] = (set(), set())
        self.lost = (set(), set())
        # Where there was nothing, nobody need forget anything.
        self.cleared = told
        self._born = array("d")
        self._names: list[EngineHash | None] = []
        self._used = 0
        self._free: dict[int, list[int]] = {}
        self._gone = _Queue()
        self._lower = _Queue()

    def __len__(self) -> int:
        """How many own blocks are in one of the tiers."""
        near, far = self.held
        return len(near) + sum(own not in near for own in far)

    def add(self, name: EngineHash, own: Sequence[int], depth: int) -> int:
        """Note a new block, which has no copy so far; return its entry, or -1 where there is no room."""
        size = len(own)
        width = size or 1
        free = self._free.get(width)
        while self._used + width > self._most or not free:
            if not self._make_room(width):
                self.forgotten += 1
                return -1
            free = self._free.get(width)
        at = free.pop()
        self._used += width
        self.index[name] = at
        self._names[at] = name
        if size == 1:
            self.own[at] = own[0]
        elif size:
            self.own[at : at + size] = array("Q", own)
        self.depths[at] = depth
        self.sizes[at] = size
        self._born[at] = NEVER
        return at

    def copied(self, at: int, tier: int, now: float) -> None:
        """Count one more copy."""
        copies = self.copies[tier]
        count = copies[at]
        copies[at] = count + 1
        if count:
            return
        if tier == NEAR:
            self._born[at] = now
        elif not self.copies[NEAR][at]:
            self._lower.put(at)
        size = self.sizes[at]
        held, gained, lost = self.held[tier], self.gained[tier], self.lost[tier]
        for own in (self.own[at],) if size == 1 else self.own[at : at + size]:
            if own in held:
                held[own] += 1
                continue
            held[own] = 1
            if own in lost:
                lost.remove(own)
            else:
                gained.add(own)

    def dropped(self, at: int, tier: int, now: float) -> bool:
        """Count one copy less; return whether there was one."""
        copies = self.copies[tier]
        count = copies[at]
        if not count:
            return False
        copies[at] = count - 1
        if count > 1:
            return True
        if tier == NEAR:
            lifetime = now - self._born[at]
            if lifetime >= 0:
                self.lifetimes.append(lifetime)
        self.uncopied(at)
        self._release(at, tier)
        return True

    def uncopied(self, at: int) -> None:
        """Let a block that the GPU has no copy of give way to others from now on."""
        if not self.copies[NEAR][at]:
            (self._lower if self.copies[FAR][at] else self._gone).put(at)

    def some_held(self, tier: int, *, after: int, most: int) -> list[int]:
        """Return up to so many of the own blocks that a tier holds, leaving out the first ``after``."""
        return list(itertools.islice(self.held[tier], after, after + most))

    def order(self) -> list[tuple[EngineHash, int]]:
        """Return the names and entries, those last that give way, in an order in which they may be added again."""
        lower = [at for at in self._lower.order() if self._is_lower(at)]
        gone = [at for at in self._gone.order() if self._is_gone(at)]
        last = set(lower) | set(gone)
        names = {at: name for name, at in self.index.items()}
        return [(names[at], at) for at in (*(at for at in names if at not in last), *lower, *gone)]

    def _release(self, at: int, tier: int) -> None:
        size = self.sizes[at]
        held, gained, lost = self.held[tier], self.gained[tier], self.lost[tier]
        for own in (self.own[at],) if size == 1 else self.own[at : at + size]:
            holders = held[own]
            if holders > 1:
                held[own] = holders - 1
                continue
            del held[own]
            if own in gained:
                gained.remove(own)
            else:
                lost.add(own)

    def _forget(self) -> bool:
        at = self._gone.pop(self._is_gone)
        if at < 0:
            at = self._lower.pop(self._is_lower)
            if at < 0:
                return False
            self.copies[FAR][at] = 0
            self._release(at, FAR)
        name = self._names[at]
        assert name is not None
        del self.index[name]
        self._names[at] = None
        width = self.sizes[at] or 1
        self._free.setdefault(width, []).append(at)
        self._used -= width
        self.forgotten += 1
        return True

    def _is_gone(self, at: int) -> bool:
        return self._names[at] is not None and not self.copies[NEAR][at] and not self.copies[FAR][at]

    def _is_lower(self, at: int) -> bool:
        return self._names[at] is not None and not self.copies[NEAR][at] and self.copies[FAR][at] > 0

    def _make_room(self, width: int) -> bool:
        if self._used + width > self._most:
            return self._forget()
        at = len(self.own)
        # Places of other widths may be free, and too narrow.
        count = max(1, _GROWTH // width)
        if at + width > 2 * self._most:
            return False
        more = count * width
        self.own.extend(array("Q", bytes(8 * more)))
        for numbers in (self.depths, self.sizes, *self.copies, self._gone.pending, self._lower.pending):
            numbers.extend(array("I", bytes(4 * more)))
        self._born.extend(array("d", bytes(8 * more)))
        self._names.extend([None] * more)
        self._free.setdefault(width, []).extend(range(at + more - width, at - 1, -width))
        return True


class _Queue:
    """Entries in the order in which they were last put here; ``pending`` is how often each of them is in it."""

    def __init__(self) -> None:
        self.pending = array("I")
        self._queue: deque[int] = deque()

    def put(self, at: int) -> None:
        """Append an entry; where it stood before counts no more."""
        self._queue.append(at)
        self.pending[at] += 1
        if len(self._queue) > 2 * len(self.pending) + 1024:
            self._queue = deque(self.order())
            for number in self._queue:
                self.pending[number] = 1

    def pop(self, wanted: Callable[[int], bool]) -> int:
        """Return the first entry that is still wanted here; -1 for none."""
        queue, pending = self._queue, self.pending
        while queue:
            at = queue.popleft()
            pending[at] -= 1
            if not pending[at] and wanted(at):
                return at
        return -1

    def order(self) -> list[int]:
        """Return the entries, each once."""
        return list(dict.fromkeys(reversed(self._queue)))[::-1]
