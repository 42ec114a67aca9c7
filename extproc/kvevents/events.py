"""What an engine says of its cache, in one shape for all versions of vLLM."""

from collections.abc import Sequence

import msgspec

EngineHash = int | bytes
"""An engine's own name of a block: whole number or digest, by its version and settings. Only ever compared."""

FULL_ATTENTION = frozenset({"full_attention", "mla_attention", "sink_full_attention"})
"""The kinds of caches whose blocks keep all of a prompt, as vLLM calls them."""


class BlockStored(msgspec.Struct, frozen=True, gc=False):
    """Blocks that follow each other are in the cache.

    ``token_ids`` are those of all ``block_hashes``, ``block_size`` each; none where the blocks were named before and
    only get another copy, as in another tier. ``parent`` is the block before the first, None at the start of a prompt.
    ``extra_keys`` are what else sets each block apart (adapter, salt, media), as the engine writes it; None: nothing.
    ``medium`` is the tier. ``group`` and ``kind`` say which of a model's caches it is, where it has several.
    """

    block_hashes: Sequence[EngineHash]
    parent: EngineHash | None
    token_ids: Sequence[int]
    block_size: int
    medium: str | None = None
    lora_name: str | None = None
    extra_keys: Sequence[object] | None = None
    group: int | None = None
    kind: str | None = None


class BlockRemoved(msgspec.Struct, frozen=True, gc=False):
    """One copy of each of these blocks is gone."""

    block_hashes: Sequence[EngineHash]
    medium: str | None = None
    group: int | None = None


class AllBlocksCleared(msgspec.Struct, frozen=True, gc=False):
    """The cache is empty."""


Event = BlockStored | BlockRemoved | AllBlocksCleared


class EventBatch(msgspec.Struct, frozen=True, gc=False):
    """What happened in one step of the engine, in order; ``time`` is its clock, in seconds since 1970.

    ``unknown`` events were of a type that is not known here.
    """

    time: float
    events: Sequence[Event]
    rank: int | None = None
    unknown: int = 0
