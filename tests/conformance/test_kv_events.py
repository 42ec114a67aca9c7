"""What a real vLLM announced of its cache, read by us, against what it was asked and what it reported meanwhile."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from extproc.config.kv_events import KvEventsSettings
from extproc.index.block_hash import block_hashes, root_hash
from extproc.kvevents.decode import decode_batch
from extproc.kvevents.engine_blocks import EngineBlocks
from extproc.kvevents.events import AllBlocksCleared, BlockRemoved, BlockStored, EngineHash, Event
from tests.support.event_recordings import KINDS, RESET, Asked, EventRecording, event_recording

CLOCK = 100.0

Blocks = set[int]


def root(lora: str, cache_salt: str) -> int:
    return root_hash(model="tiny", lora=lora, cache_salt=cache_salt)


def own_hashes(asked: Asked, block_size: int) -> list[int]:
    """Our hashes of all blocks that a request fills; the last token of an answer is never computed on."""
    ids = np.array(asked.tokens[:-1], np.uint32)
    before = root(asked.lora, asked.cache_salt)
    return [int(one) for one in block_hashes(ids, block_size=block_size, before=before)]


def cached_tokens(asked: Asked, held: Blocks, block_size: int) -> int:
    """How many tokens of the prompt an engine with these blocks reads from its cache."""
    most = (len(asked.prompt) - 1) // block_size
    found = itertools.takewhile(held.__contains__, own_hashes(asked, block_size)[:most])
    return len(list(found)) * block_size


def events_of(asked: Asked) -> list[Event]:
    return [event for payload in asked.payloads for event in decode_batch(payload).events]


@pytest.fixture(params=KINDS)
def recording(request: pytest.FixtureRequest) -> EventRecording:
    return event_recording(request.param)


class Followed:
    """The blocks of the engine as we follow them."""

    def __init__(self, recording: EventRecording) -> None:
        self.held: Blocks = set()
        self._blocks = EngineBlocks(root=root, block_size=recording.block_size, settings=KvEventsSettings())

    def apply(self, events: Sequence[Event]) -> None:
        self._blocks.apply(events, now=CLOCK)
        changes = self._blocks.take_changes()
        if changes.cleared:
            self.held.clear()
        assert not any(len(far) for far in (changes.gained[1], changes.lost[1]))
        self.held -= set(changes.lost[0].tolist())
        self.held |= set(changes.gained[0].tolist())
        assert not self._blocks.orphans_rejected
        assert not self._blocks.unplaceable


def as_written(event: dict[str, Any]) -> Event:
    """What the engine wrote, without the fields that we do not read."""
    if event["type"] == "AllBlocksCleared":
        return AllBlocksCleared()
    if event["type"] == "BlockRemoved":
        return BlockRemoved(block_hashes=event["block_hashes"], medium=event["medium"], group=event["group_idx"])
    assert event["type"] == "BlockStored"
    return BlockStored(
        block_hashes=event["block_hashes"],
        parent=event["parent_block_hash"],
        token_ids=event["token_ids"],
        block_size=event["block_size"],
        medium=event["medium"],
        lora_name=event["lora_name"],
        extra_keys=event["extra_keys"],
        group=event["group_idx"],
        kind=event["kv_cache_spec_kind"],
    )


def comparable(event: Event) -> dict[str, object]:
    fields = msgspec.structs.asdict(event)
    return {name: list(value) if isinstance(value, Sequence | np.ndarray) else value for name, value in fields.items()}


def test_every_batch_is_read_as_it_was_written(recording: EventRecording) -> None:
    kinds = Counter[str]()
    for payload in recording.payloads:
        batch = decode_batch(payload)
        time, events, rank = msgspec.msgpack.decode(payload)
        kinds.update(event["type"] for event in events)
        assert (batch.time, batch.rank, batch.unknown) == (time, rank, 0)
        assert [type(event) for event in batch.events] == [type(as_written(event)) for event in events]
        assert [comparable(event) for event in batch.events] == [comparable(as_written(event)) for event in events]
    assert kinds["BlockStored"] > 20
    assert kinds["BlockRemoved"] > 50
    assert kinds["AllBlocksCleared"] == 1


def stored(events: Sequence[Event]) -> Iterator[tuple[EngineHash, EngineHash | None, list[int]]]:
    """Every block that was stored: its name, that of the one before it, its tokens."""
    for event in events:
        if isinstance(event, BlockStored):
            size, before = event.block_size, event.parent
            for number, name in enumerate(event.block_hashes):
                yield name, before, list(event.token_ids[number * size : (number + 1) * size])
                before = name


def test_every_block_that_a_request_fills_and_does_not_find_is_announced(
    recording: EventRecording,
) -> None:
    size, places = recording.block_size, dict[EngineHash, int]()
    for asked in recording.asked:
        tokens = asked.tokens
        announced = []
        for name, before, block in stored(events_of(asked)):
            place = places[name] = 0 if before is None else places[before] + 1
            assert block == tokens[place * size : (place + 1) * size], asked.name
            announced.append(place)
        assert announced == list(range(asked.cached_tokens // size, len(own_hashes(asked, size)))), asked.name


def test_events_name_the_adapter_and_the_salt_of_the_request(recording: EventRecording) -> None:
    for asked in recording.asked:
        for event in events_of(asked):
            if isinstance(event, BlockStored):
                assert (event.lora_name or "") == asked.lora
                adapter = [asked.lora] if asked.lora else []
                salt = [asked.cache_salt] if asked.cache_salt and event.parent is None else []
                expected = [[*adapter, *salt] or None, *[adapter or None] * (len(event.block_hashes) - 1)]
                assert event.extra_keys == expected


def test_what_the_engine_reports_as_cached_is_what_its_events_told_before(recording: EventRecording) -> None:
    followed = Followed(recording)
    for number, asked in enumerate(recording.asked):
        if asked.name == RESET:
            # The engine says so with its next step only.
            assert events_of(recording.asked[number + 1])[0] == AllBlocksCleared()
            followed.apply([AllBlocksCleared()])
            continue
        assert cached_tokens(asked, followed.held, recording.block_size) == asked.cached_tokens, asked.name
        followed.apply(events_of(asked))


def test_the_blocks_followed_are_those_with_copies_left_after_every_request(recording: EventRecording) -> None:
    """What a block is comes from the request that filled it here, and not from the tokens of events."""
    followed = Followed(recording)
    own, places, copies = dict[EngineHash, int](), dict[EngineHash, int](), Counter[EngineHash]()
    most_copies = 0
    for asked in recording.asked:
        hashes = own_hashes(asked, recording.block_size)
        for event in events_of(asked):
            if isinstance(event, AllBlocksCleared):
                copies.clear()
            elif isinstance(event, BlockRemoved):
                copies.subtract(event.block_hashes)
            for name, before, _tokens in stored([event]):
                places[name] = 0 if before is None else places[before] + 1
                own[name] = hashes[places[name]]
                copies[name] += 1
        most_copies = max(most_copies, *copies.values(), 0)
        assert min(copies.values(), default=0) >= 0
        assert copies.total() <= recording.usable_blocks
        followed.apply(events_of(asked))
        assert followed.held == {own[name] for name, count in copies.items() if count}, asked.name
    assert most_copies > 1
    assert followed.held
