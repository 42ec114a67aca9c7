"""From the bytes of a batch to its events, in every layout that vLLM has had.

A batch is a msgpack array of time, events and the data-parallel rank, which early versions leave out. Up to vLLM 0.23
an event is an array that begins with the name of its type, its fields in order, and the last ones missing in older
versions; since 0.24 it is a map with the name under ``type``, and fields that say nothing are left out. Hashes are
whole numbers, in old versions signed ones, or digests. Fields that are not known here are passed over, and so are
events of other types, which are counted; what is known must be right, as a wrong token would be a wrong block.

Maps are decoded straight into structs. A batch that cannot be read so is read again, field by field.
"""

import math
from array import array
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from extproc.kvevents.events import (
    FULL_ATTENTION,
    AllBlocksCleared,
    BlockRemoved,
    BlockStored,
    EngineHash,
    Event,
    EventBatch,
)

MAX_PAYLOAD_BYTES = 16 << 20
MAX_EVENTS = 1 << 17
MAX_TOKENS = 1 << 22
"""Token ids of one batch."""
MAX_BLOCKS = 1 << 20
"""Hashes of one batch, removed ones too."""
MAX_BLOCK_SIZE = 1 << 16
"""Tokens of one block."""
MAX_DIGEST_BYTES = 64

_UNSIGNED = (1 << 64) - 1
_LONGEST_REASON = 120

_Number = Annotated[int, Meta(ge=0)]
_Hash = _Number | Annotated[bytes, Meta(min_length=1, max_length=MAX_DIGEST_BYTES)]
_Small = Annotated[int, Meta(ge=0, le=0xFFFF)]
_Token = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]


class PayloadError(ValueError):
    """A payload is no batch of events. The text says what is wrong, and nothing of the content."""


class _Stored(msgspec.Struct, tag="BlockStored", gc=False):
    """As on the wire; the order of the fields is that of the positional layout."""

    block_hashes: list[_Hash]
    parent_block_hash: _Hash | None
    token_ids: list[_Token]
    block_size: Annotated[int, Meta(ge=0, le=MAX_BLOCK_SIZE)]
    lora_id: Any = None
    medium: str | None = None
    lora_name: str | None = None
    extra_keys: list[Any] | None = None
    group_idx: _Small | None = None
    kv_cache_spec_kind: str | None = None


class _Removed(msgspec.Struct, tag="BlockRemoved", gc=False):
    """Likewise."""

    block_hashes: list[_Hash]
    medium: str | None = None
    group_idx: _Small | None = None


class _Cleared(msgspec.Struct, tag="AllBlocksCleared", gc=False):
    """Likewise."""


_WireEvent = _Stored | _Removed | _Cleared


class _Maps(msgspec.Struct, array_like=True, gc=False):
    """A batch of events that are maps, all of known types."""

    ts: float
    events: Annotated[list[_WireEvent], Meta(max_length=MAX_EVENTS)]
    rank: _Small | None = None


class _Whatever(msgspec.Struct, array_like=True, gc=False):
    """A batch of events of any layout."""

    ts: float
    events: Annotated[list[Any], Meta(max_length=MAX_EVENTS)]
    rank: _Small | None = None


_decode_maps = msgspec.msgpack.Decoder(_Maps).decode
_decode_whatever = msgspec.msgpack.Decoder(_Whatever).decode
# Beside its own errors: what is nested too deep, text that is not UTF-8, and keys or numbers that Python cannot have.
_ERRORS = (msgspec.MsgspecError, RecursionError, ValueError, TypeError, OverflowError)
_TYPES: dict[str, type[_WireEvent]] = {
    "BlockStored": _Stored,
    "BlockRemoved": _Removed,
    "AllBlocksCleared": _Cleared,
}


def decode_batch(payload: bytes) -> EventBatch:
    """Read a batch. Raises :class:`PayloadError` for what is none, and nothing else, whatever the bytes.

    The token ids of its events are arrays of 32-bit numbers.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise PayloadError(f"{len(payload)} bytes are more than {MAX_PAYLOAD_BYTES}")
    unknown = 0
    batch: _Maps | _Whatever
    try:
        batch = _decode_maps(payload)
        wire = batch.events
    except msgspec.ValidationError:
        batch, wire, unknown = _read_slowly(payload)
    except _ERRORS:
        raise PayloadError("not msgpack, or nested too deep") from None
    if not math.isfinite(batch.ts):
        raise PayloadError("its time is no number")
    return EventBatch(batch.ts, _events(wire), batch.rank, unknown)


def _events(wire: list[_WireEvent]) -> list[Event]:
    events: list[Event] = []
    add: Callable[[Event], None] = events.append
    tokens = blocks = 0
    for event in wire:
        if type(event) is _Stored:
            blocks += len(event.block_hashes)
            tokens += len(event.token_ids)
            add(_stored(event))
        elif type(event) is _Removed:
            blocks += len(event.block_hashes)
            add(BlockRemoved(event.block_hashes, event.medium, event.group_idx))
        else:
            add(AllBlocksCleared())
    if blocks > MAX_BLOCKS or tokens > MAX_TOKENS:
        raise PayloadError(f"{blocks} blocks of {tokens} tokens are more than {MAX_BLOCKS} or {MAX_TOKENS}")
    return events


def _stored(event: _Stored) -> BlockStored:
    ids, blocks, kind, extra_keys = event.token_ids, len(event.block_hashes), event.kv_cache_spec_kind, event.extra_keys
    if ids and len(ids) != event.block_size * blocks:
        # Where attention looks back so far and no farther, blocks that nobody needs are left out, their tokens are not.
        if kind is None or kind in FULL_ATTENTION:
            raise PayloadError(f"BlockStored: {blocks} blocks of {event.block_size} tokens, and {len(ids)} token ids")
        ids = []
    if event.lora_id is not None and event.lora_name is None:
        # An adapter without its name: nothing that can be told apart from others.
        extra_keys = [[("lora_id", event.lora_id)]] * blocks
    return BlockStored(
        event.block_hashes,
        event.parent_block_hash,
        array("I", ids),
        event.block_size,
        event.medium,
        event.lora_name,
        extra_keys,
        event.group_idx,
        kind,
    )


def _read_slowly(payload: bytes) -> tuple[_Whatever, list[_WireEvent], int]:
    """Return a batch, its events of known types, and how many others there are."""
    try:
        batch = _decode_whatever(payload)
    except msgspec.ValidationError as error:
        raise PayloadError(f"no batch of events: {error}"[:_LONGEST_REASON]) from None
    except _ERRORS:
        raise PayloadError("not msgpack, or nested too deep") from None
    events = [_read_event(event) for event in batch.events]
    known = [event for event in events if event is not None]
    return batch, known, len(events) - len(known)


def _read_event(event: Any) -> _WireEvent | None:  # noqa: ANN401 - whatever was on the wire
    """Return an event; None where its type is not known."""
    if isinstance(event, dict):
        name, fields = event.get("type"), event
    elif isinstance(event, list) and event:
        name, fields = event[0], {}
    else:
        raise PayloadError("an event is neither a map nor an array with a name")
    if not isinstance(name, str):
        raise PayloadError("an event has no name")
    wanted = _TYPES.get(name)
    if wanted is None:
        return None
    if isinstance(event, list):
        fields = dict(zip(wanted.__struct_fields__, event[1:], strict=False))
    else:
        fields = {field: fields[field] for field in wanted.__struct_fields__ if field in fields}
    if isinstance(hashes := fields.get("block_hashes"), list):
        fields["block_hashes"] = [_unsigned(value) for value in hashes]
    if "parent_block_hash" in fields:
        fields["parent_block_hash"] = _unsigned(fields["parent_block_hash"])
    try:
        return msgspec.convert({"type": name, **fields}, wanted)
    except _ERRORS as error:
        raise PayloadError(f"{name}: {error}"[:_LONGEST_REASON]) from None


def _unsigned(value: EngineHash) -> EngineHash:
    """The 64 bits of a hash as a number that is not negative; anything else as it is."""
    return value & _UNSIGNED if isinstance(value, int) and value < 0 else value
