"""Which blocks one engine holds, in our own hashes: its events, put together.

Engines name blocks by hashes of their own, whose seed and algorithm differ by version and setting. So what a block is
follows from its tokens and from the block before it, as in ``block_hash.py``, and an engine's hash only leads there.

Copies are counted: a hash can be in several blocks of the engine's memory, each removed on its own, and is lost with
the last of them. An event that follows a block that is not known waits for it (``orphans.py``); it is never placed at a
prompt's start. Blocks that hold more than tokens, as of images, are remembered as not placed, with all that follow.

The sums over all tokens of some events are one numpy call, and so is the mixing of these with the place of each block,
where that is known beforehand.
"""

import functools
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from extproc.config.kv_events import KvEventsSettings
from extproc.index.block_hash import Hashes, block_steps, block_sums
from extproc.kvevents import entry_arrays
from extproc.kvevents.entries import FAR, NEAR, Entries
from extproc.kvevents.events import FULL_ATTENTION, AllBlocksCleared, BlockRemoved, BlockStored, EngineHash, Event
from extproc.kvevents.extra_keys import read_extra_keys
from extproc.kvevents.orphans import Orphan, Orphans

_BITS = (1 << 64) - 1
_KNOWN_ROOTS = 256
_NO_TOKENS: Hashes = np.empty(0, dtype=np.uint64)


class IncompatibleBlockSize(Exception):  # noqa: N818 - as the condition is called everywhere
    """The blocks of an engine are ``theirs`` tokens, which is no multiple of ``ours``."""

    def __init__(self, theirs: int, ours: int) -> None:
        super().__init__(f"the engine's blocks of {theirs} tokens are no multiple of {ours}")
        self.theirs = theirs
        self.ours = ours


class Changes(NamedTuple):
    """What was ``gained`` and ``lost`` in each tier, by ``NEAR`` and ``FAR``; what came and went is in neither.

    With ``cleared`` everything that was told before is to be forgotten first.
    """

    cleared: bool
    gained: tuple[Hashes, Hashes]
    lost: tuple[Hashes, Hashes]


class _Steps(NamedTuple):
    """What the own blocks of some events come to: alone, and as a step at the place that each event was expected at."""

    sums: Hashes
    steps: list[int]
    places: list[int]


class EngineBlocks:
    """The blocks of one engine, or of one of its data-parallel ranks.

    ``root`` returns the start of the chain of an adapter and a cache salt, both empty for none, and ``block_size`` is
    the tokens of one of our blocks. Times are in seconds, of one clock.
    """

    def __init__(self, *, root: Callable[[str, str], int], block_size: int, settings: KvEventsSettings) -> None:
        self.unplaceable = 0
        """Blocks of the engine that were not placed, as they hold more than tokens or follow one that does."""
        self._root = functools.lru_cache(_KNOWN_ROOTS)(root)
        self._block_size = block_size
        self._orphan_secs = settings.orphan_secs
        self._entries = Entries(most=settings.max_blocks)
        self._orphans = Orphans(most=settings.max_orphans, most_blocks=settings.max_blocks)
        self._rejected = 0
        self._group: int | None = None
        self._complained = False
        self.lifetimes = self._entries.lifetimes
        """Seconds between the storing and the removal of blocks in the GPU's memory, the last of them."""

    def __len__(self) -> int:
        """How many of our blocks the engine holds, in any tier."""
        return len(self._entries)

    @property
    def orphans_rejected(self) -> int:
        """Events, or copies without tokens, whose place was never known."""
        return self._orphans.rejected + self._rejected

    @property
    def forgotten(self) -> int:
        """Blocks that were given up for want of room."""
        return self._entries.forgotten

    def apply(self, events: Sequence[Event], *, now: float) -> None:
        """Follow some events, as ``decode_batch`` returns them.

        Raises :class:`IncompatibleBlockSize` the first time that the engine's blocks do not fit ours, and then follows
        none of these events; later ones are passed over.
        """
        chosen, steps = self._prepare(events)
        entries, orphans = self._entries, self._orphans
        index = entries.index
        offset = number = 0
        for event in chosen:
            tier = NEAR if event.medium is None or event.medium == "GPU" else FAR
            if type(event) is BlockStored:
                if event.token_ids:
                    count = len(event.token_ids) // self._block_size
                    self._store(event, tier, steps, number, offset, now)
                    offset += count
                    number += 1
                else:
                    self._copy(event, tier, now)
                continue
            for name in event.block_hashes:
                at = index.get(name)
                if (at is None or not entries.dropped(at, tier, now)) and orphans:
                    orphans.removed(name, tier)

    def take_changes(self) -> Changes:
        """Return what changed since the last call."""
        entries = self._entries
        near, far = (
            (_as_array(gained), _as_array(lost)) for gained, lost in zip(entries.gained, entries.lost, strict=True)
        )
        cleared, entries.cleared = entries.cleared, False
        for hashes in (*entries.gained, *entries.lost):
            hashes.clear()
        return Changes(cleared, (near[0], far[0]), (near[1], far[1]))

    def some_held(self, tier: int, *, after: int, most: int) -> Hashes:
        """Return up to so many of the blocks that a tier holds, leaving out the first ``after``."""
        held = self._entries.some_held(tier, after=after, most=most)
        return np.fromiter(held, np.uint64, len(held))

    def expire(self, now: float) -> None:
        """Reject the events that have waited too long for the block they follow."""
        if self._orphans:
            self._orphans.expire(now - self._orphan_secs)

    def clear(self) -> None:
        """Begin anew, as with an engine of which nothing is known."""
        self._forget()
        self._group = None
        self._complained = False

    def dump(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return all that is needed to go on later, but for what waits, as arrays of one dimension."""
        return entry_arrays.dump(self._entries, block_size=self._block_size, root=self._root("", ""), group=self._group)

    @classmethod
    def restore(
        cls,
        arrays: Mapping[str, npt.NDArray[np.generic]],
        *,
        root: Callable[[str, str], int],
        block_size: int,
        settings: KvEventsSettings,
    ) -> "EngineBlocks":
        """Go on with what :meth:`dump` returned; all blocks that are held are then gained.

        Raises ``ValueError`` for arrays that are none of these, or of other blocks or roots.
        """
        blocks = cls(root=root, block_size=block_size, settings=settings)
        blocks._group = entry_arrays.restore(blocks._entries, arrays, block_size=block_size, root=root("", ""))
        return blocks

    def _forget(self) -> None:
        self._entries.clear()
        self._orphans.clear()

    def _prepare(self, events: Sequence[Event]) -> tuple[list[BlockStored | BlockRemoved], _Steps]:
        """Return the events that count, and what the tokens of those that have some come to."""
        chosen: list[BlockStored | BlockRemoved] = []
        chunks: list[array[int]] = []
        places: list[int] = []
        ends: dict[EngineHash, int] = {}
        ours = self._block_size
        for event in events:
            if type(event) is AllBlocksCleared:
                self._forget()
                chosen, chunks, places, ends = [], [], [], {}
                continue
            assert not isinstance(event, AllBlocksCleared)
            if event.group is not None and event.group != self._group:
                followed = self._group
                if not self._takes(event):
                    continue
                if followed is not None:
                    chosen, chunks, places, ends = [], [], [], {}
            if type(event) is BlockStored:
                if event.kind is not None and event.kind not in FULL_ATTENTION:
                    continue
                tokens = event.token_ids
                if tokens:
                    if event.block_size % ours:
                        self._complain(event.block_size)
                        continue
                    place = self._place(event.parent, ends)
                    ends[event.block_hashes[-1]] = place + len(tokens) // ours
                    places.append(place)
                    chunks.append(tokens if isinstance(tokens, array) else array("I", tokens))
            chosen.append(event)
        return chosen, self._sum(chunks, places)

    def _takes(self, event: BlockStored | BlockRemoved) -> bool:
        """Whether an event of another group than before is of the one that is followed from now on.

        Of a model's several caches the first one that keeps whole prompts is followed.
        """
        group, followed = event.group, self._group
        if not isinstance(event, BlockStored) or not event.token_ids or group is None:
            return False
        if event.kind is not None and event.kind not in FULL_ATTENTION:
            return False
        if followed is not None and group > followed:
            return False
        if followed is not None:
            self._forget()
        self._group = group
        return True

    def _complain(self, theirs: int) -> None:
        if not self._complained:
            self._complained = True
            raise IncompatibleBlockSize(theirs, self._block_size)

    def _place(self, parent: EngineHash | None, ends: Mapping[EngineHash, int]) -> int:
        """Guess at which place of its prompt an event begins."""
        if parent is None:
            return 0
        at = self._entries.index.get(parent)
        return ends.get(parent, 0) if at is None else self._entries.depths[at]

    def _sum(self, chunks: Sequence["array[int]"], places: list[int]) -> _Steps:
        if not chunks:
            return _Steps(_NO_TOKENS, [], places)
        ids = np.frombuffer(chunks[0] if len(chunks) == 1 else b"".join(chunks), np.uint32)
        sums = block_sums(ids, block_size=self._block_size)
        if len(sums) == len(places):
            return _Steps(sums, block_steps(sums, np.array(places, np.uint64)).tolist(), places)
        counts = np.array([len(chunk) for chunk in chunks]) // self._block_size
        firsts = np.array(places, np.int64) - (np.cumsum(counts) - counts)
        everywhere = np.repeat(firsts, counts) + np.arange(len(sums))
        return _Steps(sums, block_steps(sums, everywhere.astype(np.uint64)).tolist(), places)

    def _store(  # noqa: PLR0917 - called for every block; naming the arguments takes a tenth of its time
        self, event: BlockStored, tier: int, steps: _Steps, number: int, offset: int, now: float
    ) -> None:
        entries = self._entries
        hashes, parent = event.block_hashes, event.parent
        blocks = len(hashes)
        salt, good = "", blocks
        if event.extra_keys and any(event.extra_keys):
            salt, good = read_extra_keys(
                event.extra_keys, blocks=blocks, lora_name=event.lora_name, is_start=parent is None
            )
        size = event.block_size // self._block_size
        if parent is None:
            before, depth = self._root(event.lora_name or "", salt), 0
        else:
            at = entries.index.get(parent)
            if at is None:
                at = entries.index.get(hashes[0])
                if at is None:
                    sums = steps.sums[offset : offset + blocks * size].copy()
                    self._orphans.add(
                        Orphan(hashes=hashes, parent=parent, sums=sums, size=size, good=good, tier=tier, since=now)
                    )
                    return
                # A known block says itself where it stands, whatever comes before it.
                before, depth = 0, entries.depths[at] - entries.sizes[at]
            else:
                width = entries.sizes[at]
                if not width:
                    good = 0
                before, depth = entries.own[at + width - 1] if width else 0, entries.depths[at]
        if depth == steps.places[number]:
            mine = steps.steps[offset : offset + blocks * size]
        else:
            mine = _steps_at(steps.sums[offset : offset + blocks * size], depth)
        self._put(hashes, before, depth, mine, size, good, tier, now, None)
        if self._orphans:
            self._adopt(hashes, now)

    def _put(  # noqa: PLR0917 - likewise
        self,
        hashes: Sequence[EngineHash],
        before: int,
        depth: int,
        steps: Sequence[int],
        size: int,
        good: int,
        tier: int,
        now: float,
        alive: Sequence[bool] | None,
    ) -> None:
        """Note copies of blocks that follow each other, the first of them the block with the hash ``before``."""
        entries = self._entries
        index = entries.index
        for number, name in enumerate(hashes):
            at = index.get(name)
            if at is None:
                if number < good:
                    own = []
                    for step in steps[number * size : (number + 1) * size] if size > 1 else (steps[number],):
                        before = (before + step) & _BITS
                        own.append(before)
                    depth += size
                    at = entries.add(name, own, depth)
                else:
                    good = 0
                    at = entries.add(name, (), 0)
                    self.unplaceable += at >= 0
                if at < 0:
                    entries.forgotten += len(hashes) - number - 1
                    return
                if alive is not None and not alive[number]:
                    entries.uncopied(at)
            elif width := entries.sizes[at]:
                before, depth = entries.own[at + width - 1], entries.depths[at]
            else:
                good = 0
            if alive is None or alive[number]:
                entries.copied(at, tier, now)

    def _adopt(self, hashes: Sequence[EngineHash], now: float) -> None:
        """Place the events that waited for one of these blocks, and those that waited for theirs."""
        entries = self._entries
        known = list(hashes)
        while known:
            parent = known.pop()
            at = entries.index.get(parent)
            if at is None:
                continue
            width, depth = entries.sizes[at], entries.depths[at]
            before = entries.own[at + width - 1] if width else 0
            for orphan in self._orphans.take(parent):
                good = orphan.good if width else 0
                steps = _steps_at(orphan.sums, depth)
                self._put(orphan.hashes, before, depth, steps, orphan.size, good, orphan.tier, now, orphan.alive)
                known += orphan.hashes

    def _copy(self, event: BlockStored, tier: int, now: float) -> None:
        """Count copies of blocks that were named before."""
        entries = self._entries
        for name in event.block_hashes:
            at = entries.index.get(name)
            if at is None:
                self._rejected += 1
            else:
                entries.copied(at, tier, now)


def _steps_at(sums: Hashes, place: int) -> list[int]:
    steps: list[int] = block_steps(sums, np.arange(place, place + len(sums), dtype=np.uint64)).tolist()
    return steps


def _as_array(hashes: set[int]) -> Hashes:
    return np.fromiter(hashes, np.uint64, len(hashes))
