"""What engines publish to be followed: batches made beforehand, and what their caches hold after each of them."""

import struct
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from extproc.config.models import ModelSpec
from extproc.index.block_hash import Hashes, block_hashes
from extproc.observer.kv_events import root_of

HELD = 1_000
"""Blocks in a cache from the first batch on; then one comes for each that goes."""
EVENTS_A_BATCH = 5
SPEC = ModelSpec(name="bench")

_CONVERSATIONS = 64
_VOCABULARY = 128_000
_TIME = struct.Struct(">d")
_HEAD = b"\x93\xcb"
"""An array of three, the first a number of 8 bytes: the time."""

_encode = msgspec.msgpack.Encoder().encode


class Feed:
    """The batches of one engine, in the layout of vLLM 0.32: first one that fills its cache, then ``batches`` more.

    The events of these are in turn a stored block of a growing conversation and a removed one.
    """

    def __init__(self, *, seed: int, batches: int) -> None:
        self.batches = 1 + batches
        rng = np.random.default_rng(seed)
        blocks = HELD + (batches * EVENTS_A_BATCH + 1) // 2
        ids = rng.integers(0, _VOCABULARY, (blocks, SPEC.block_size), dtype=np.uint32)
        self._hashes = np.empty(blocks, np.uint64)
        for first in range(_CONVERSATIONS):
            conversation = ids[first::_CONVERSATIONS].ravel()
            self._hashes[first::_CONVERSATIONS] = block_hashes(
                conversation, block_size=SPEC.block_size, before=root_of(SPEC, "", "")
            )
        self._rests = list(_rests(ids, rng.integers(1, 1 << 63, blocks).tolist(), batches))

    def payload(self, number: int, now: float) -> bytes:
        """Return a batch that is sent ``now``, in seconds since 1970."""
        return _HEAD + _TIME.pack(now) + self._rests[number]

    def held(self, sent: int) -> tuple[Hashes, Hashes]:
        """Return the blocks that the cache holds after ``sent`` batches, and those that it holds no more."""
        events = max(0, sent - 1) * EVENTS_A_BATCH
        gone = events // 2
        return self._hashes[gone : HELD + (events + 1) // 2], self._hashes[:gone]


def _rests(ids: "np.typing.NDArray[np.uint32]", names: list[int], batches: int) -> Iterator[bytes]:
    """Return what follows the time in each batch."""
    tokens = ids.tolist()
    yield _rest([_stored(tokens, names, number) for number in range(HELD)])
    for batch in range(batches):
        events = range(batch * EVENTS_A_BATCH, (batch + 1) * EVENTS_A_BATCH)
        yield _rest(
            [
                _removed(names[event // 2]) if event % 2 else _stored(tokens, names, HELD + event // 2)
                for event in events
            ]
        )


def _rest(events: list[dict[str, Any]]) -> bytes:
    return _encode([0.0, events, 0])[len(_HEAD) + _TIME.size :]


def _stored(tokens: list[list[int]], names: list[int], number: int) -> dict[str, Any]:
    return {
        "type": "BlockStored",
        "block_hashes": [names[number]],
        "parent_block_hash": names[number - _CONVERSATIONS] if number >= _CONVERSATIONS else None,
        "token_ids": tokens[number],
        "block_size": SPEC.block_size,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
        "extra_keys": [None],
        "group_idx": 0,
        "kv_cache_spec_kind": "full_attention",
    }


def _removed(name: int) -> dict[str, Any]:
    return {"type": "BlockRemoved", "block_hashes": [name], "medium": "GPU", "group_idx": 0}
