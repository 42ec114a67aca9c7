"""Events of an engine's cache that a test makes up, and what is told of the blocks that they come to."""

import random
from collections.abc import Sequence

import msgspec
import numpy as np

from extproc.config.kv_events import KvEventsSettings
from extproc.index.block_hash import block_hashes, root_hash
from extproc.kvevents.engine_blocks import EngineBlocks
from extproc.kvevents.entries import NEAR
from extproc.kvevents.events import AllBlocksCleared, BlockRemoved, BlockStored, EngineHash, Event

SIZE = 4
SETTINGS = KvEventsSettings()
TOKENS = list(range(16))
LONGER = list(range(24))


def root(lora: str, salt: str) -> int:
    return root_hash(model="m", lora=lora, cache_salt=salt)


def make(settings: KvEventsSettings = SETTINGS, size: int = SIZE) -> EngineBlocks:
    return EngineBlocks(root=root, block_size=size, settings=settings)


def ours(tokens: Sequence[int], *, lora: str = "", salt: str = "", size: int = SIZE) -> list[int]:
    ids = np.array(tokens, dtype=np.uint32)
    hashes: list[int] = block_hashes(ids, block_size=size, before=root(lora, salt)).tolist()
    return hashes


def name(tokens: Sequence[int], lora: str = "", salt: str = "") -> int:
    """An engine's hash of the block that ends these tokens."""
    return hash((tuple(tokens), lora, salt)) & (2**64 - 1)


def stored(
    tokens: Sequence[int], *, first: int = 0, size: int = SIZE, lora: str = "", salt: str = "", digests: bool = False,
    medium: str | None = "GPU", group: int | None = None, kind: str | None = None,
    extra: Sequence[object] | None = None,
) -> BlockStored:  # fmt: skip
    """The blocks of a prompt from the block ``first`` on."""
    names: list[EngineHash] = [name(tokens[: end * size], lora, salt) for end in range(1, len(tokens) // size + 1)]
    if digests:
        names = [number.to_bytes(8, "big") for number in names if isinstance(number, int)]
    if extra is None and (lora or salt):
        keys = [lora] if lora else []
        extra = [[*keys, salt] if salt and not at else keys or None for at in range(first, len(names))]
    return BlockStored(
        names[first:], names[first - 1] if first else None, list(tokens[first * size : len(names) * size]), size,
        medium, lora or None, extra, group, kind,
    )  # fmt: skip


def removed(event: BlockStored, *at: int, medium: str | None = "GPU", group: int | None = None) -> BlockRemoved:
    return BlockRemoved([event.block_hashes[number] for number in at], medium, group)


def on_wire(event: Event) -> dict[str, object]:
    """An event as an engine writes it."""
    if isinstance(event, AllBlocksCleared):
        return {"type": "AllBlocksCleared"}
    names = list(event.block_hashes)
    if isinstance(event, BlockRemoved):
        return {"type": "BlockRemoved", "block_hashes": names, "medium": event.medium}
    return {
        "type": "BlockStored", "block_hashes": names, "parent_block_hash": event.parent,
        "token_ids": list(event.token_ids), "block_size": event.block_size, "lora_id": None, "medium": event.medium,
        "lora_name": event.lora_name, "extra_keys": None if event.extra_keys is None else list(event.extra_keys),
    }  # fmt: skip


def payload(*events: Event, seconds: float = 1e9, rank: int | None = 0) -> bytes:
    """A batch of events, put together at ``seconds``."""
    return msgspec.msgpack.encode([seconds, [on_wire(event) for event in events], *([] if rank is None else [rank])])


class Told:
    """What was told of an engine's blocks, put together from its changes."""

    def __init__(self, blocks: EngineBlocks) -> None:
        self._blocks = blocks
        self.tiers: tuple[set[int], set[int]] = (set(), set())

    def look(self) -> tuple[set[int], set[int]]:
        changes = self._blocks.take_changes()
        for tier, held in enumerate(self.tiers):
            if changes.cleared:
                held.clear()
            gained, lost = set(changes.gained[tier].tolist()), set(changes.lost[tier].tolist())
            assert not gained & held
            assert lost <= held
            held.difference_update(lost)
            held.update(gained)
        return self.tiers


class Cache:
    """Copies of blocks of random prompts, and the events of what happens to them."""

    def __init__(self, rng: random.Random, *, factor: int = 1, digests: bool = False) -> None:
        self._rng = rng
        self._size = SIZE * factor
        self._digests = digests
        self._copies: tuple[list[tuple[EngineHash, tuple[int, ...]]], ...] = ([], [])
        self._roots = [("", ""), ("ad1", ""), ("", "salt"), ("ad1", "salt")]

    def clear(self) -> None:
        """Lose everything without a word, as in a restart."""
        for copies in self._copies:
            copies.clear()

    def turn_over(self) -> list[Event]:
        """Let every copy make room."""
        events: list[Event] = [
            BlockRemoved([block for block, _ in copies], medium)
            for copies, medium in zip(self._copies, ("GPU", "CPU"), strict=True)
            if copies
        ]
        self.clear()
        return events

    @property
    def held(self) -> tuple[set[int], set[int]]:
        near, far = ({own for _, all_own in copies for own in all_own} for copies in self._copies)
        return near, far

    def step(self) -> Event:
        rng = self._rng
        tier = int(rng.random() < 0.2)
        medium = ("GPU", "CPU")[tier]
        copies = self._copies[tier]
        draw = rng.random()
        if draw < 0.02:
            self.clear()
            return AllBlocksCleared()
        if draw < 0.5 and copies:
            gone = [copies.pop(rng.randrange(len(copies))) for _ in range(rng.randint(1, min(3, len(copies))))]
            return BlockRemoved([block for block, _ in gone], medium)
        if draw < 0.6 and tier and self._copies[NEAR]:
            copies.append(rng.choice(self._copies[NEAR]))
            return BlockStored([copies[-1][0]], None, [], 0, medium)
        lora, salt = rng.choice(self._roots)
        tokens = [token for _ in range(rng.randint(1, 4)) for token in [rng.randrange(2)] * self._size]
        event = stored(tokens, size=self._size, lora=lora, salt=salt, digests=self._digests, medium=medium)
        own = ours(tokens, lora=lora, salt=salt)
        width = self._size // SIZE
        for number, block in enumerate(event.block_hashes):
            copies.append((block, tuple(own[number * width : (number + 1) * width])))
        return event
