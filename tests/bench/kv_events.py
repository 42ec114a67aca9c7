"""What following an engine's cache costs: reading its events, putting them together, and into the prefix index.

`single` is an engine that generates: an event for each block it fills, and one for each that gives way; in batches of
128 events, as of a busy step, and of 4. `prompts` is one that computes prompts, 128 blocks an event.
"""

import random
from collections.abc import Iterator
from statistics import median
from time import perf_counter
from typing import Any

import msgspec

from extproc.config.kv_events import KvEventsSettings
from extproc.index.prefix_index import PrefixIndex
from extproc.kvevents.decode import decode_batch
from extproc.kvevents.engine_blocks import EngineBlocks
from extproc.kvevents.index_changes import apply_changes
from tests.bench.rows import Row

BLOCK_SIZE = 16
HELD = 1_000
BLOCKS = 51_200
ROUNDS = 3
BAR = 200_000
INDEX_BYTES = 1 << 27

_encode = msgspec.msgpack.Encoder().encode
_Event = dict[str, Any]


def measure_kv_events() -> Iterator[Row]:
    """Blocks a second; the bar is for reading and putting together, and for that with the index."""
    for what, batches, held in (
        ("single, 128 a batch", _singles(128), True),
        ("single, 4 a batch", _singles(4), False),
        ("prompts of 128 blocks", _prompts(), True),
    ):
        decoding, applying, indexing = _seconds(batches)
        yield Row(f"KV events, {what}: decode", _rate(decoding))
        yield Row(f"KV events, {what}: apply", _rate(applying))
        yield Row(f"KV events, {what}: into the index", _rate(indexing))
        for name, seconds in (("both", decoding + applying), ("all", decoding + applying + indexing)):
            yield Row(
                f"KV events, {what}: {name}",
                _rate(seconds),
                f"≥ {BAR:,}" if held else "",
                BLOCKS / seconds >= BAR if held else None,
            )


def _rate(seconds: float) -> str:
    return f"{BLOCKS / seconds:,.0f} blocks/s"


def _seconds(batches: list[bytes]) -> tuple[float, float, float]:
    rounds = []
    for _ in range(ROUNDS):
        index = PrefixIndex(memory=memoryview(bytearray(INDEX_BYTES)), clock=perf_counter)
        blocks = EngineBlocks(root=lambda _lora, _salt: 7, block_size=BLOCK_SIZE, settings=KvEventsSettings())
        decoding = applying = indexing = 0.0
        for payload in batches:
            started = perf_counter()
            events = decode_batch(payload).events
            decoded = perf_counter()
            blocks.apply(events, now=decoded)
            changes = blocks.take_changes()
            applied = perf_counter()
            apply_changes(index, [(3, changes)])
            decoding += decoded - started
            applying += applied - decoded
            indexing += perf_counter() - applied
        rounds.append((decoding, applying, indexing))
    first, second, third = (median(numbers) for numbers in zip(*rounds, strict=True))
    return first, second, third


def _singles(size: int) -> list[bytes]:
    """``BLOCKS`` events of one block, every other one a removal."""
    rng = random.Random(6)
    events: list[_Event] = []
    names = [rng.getrandbits(64) for _ in range(BLOCKS // 2)]
    for number, name in enumerate(names):
        # As many conversations as there may be at once, each of them filling a block in turn.
        parent = names[number - 64] if number >= 64 else None
        events += [_stored(rng, [name], parent), _removed(names[max(0, number - HELD)])]
    return [_encode([1.0, events[at : at + size], 0]) for at in range(0, len(events), size)]


def _prompts() -> list[bytes]:
    rng = random.Random(7)
    return [
        _encode([1.0, [_stored(rng, [rng.getrandbits(64) for _ in range(128)], None)], 0]) for _ in range(BLOCKS // 128)
    ]


def _stored(rng: random.Random, names: list[int], parent: int | None) -> _Event:
    return {
        "type": "BlockStored",
        "block_hashes": names,
        "parent_block_hash": parent,
        "token_ids": [rng.randrange(128_000) for _ in range(BLOCK_SIZE * len(names))],
        "block_size": BLOCK_SIZE,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
        "extra_keys": [None] * len(names),
        "group_idx": 0,
        "kv_cache_spec_kind": "full_attention",
    }


def _removed(name: int) -> _Event:
    return {"type": "BlockRemoved", "block_hashes": [name], "medium": "GPU", "group_idx": 0}
