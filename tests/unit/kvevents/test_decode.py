"""Batches of every layout become the same events, and bytes that are no batch are refused, whatever they are."""

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.kvevents.decode import MAX_EVENTS, MAX_PAYLOAD_BYTES, PayloadError, decode_batch
from extproc.kvevents.events import AllBlocksCleared, BlockRemoved, BlockStored
from workers.engine.events import Cleared, Removed, Stored
from workers.engine.request import Request
from workers.simulated.kv_events import Encoder

encode = msgspec.msgpack.Encoder().encode

STORED: dict[str, Any] = {
    "type": "BlockStored",
    "block_hashes": [11, 12],
    "parent_block_hash": None,
    "token_ids": [1, 2, 3, 2**32 - 1],
    "block_size": 2,
    "lora_id": None,
    "medium": "GPU",
    "lora_name": None,
}


def stored(**changes: object) -> bytes:
    return encode([1.5, [STORED | changes], 0])


def only(payload: bytes) -> BlockStored:
    (event,) = decode_batch(payload).events
    assert isinstance(event, BlockStored)
    return event


def test_maps_are_read_with_all_their_fields() -> None:
    more = {"extra_keys": [None, ["salt"]], "group_idx": 3, "kv_cache_spec_kind": "mla_attention", "lora_name": "a"}
    batch = decode_batch(stored(**more, locality="LOCAL", ownership="x", session_id="s", lookahead_token_ids=[[1], {}]))
    (event,) = batch.events
    assert isinstance(event, BlockStored)
    assert (batch.time, batch.rank, batch.unknown) == (1.5, 0, 0)
    assert (list(event.block_hashes), event.parent, list(event.token_ids)) == ([11, 12], None, [1, 2, 3, 2**32 - 1])
    assert (event.block_size, event.medium, event.lora_name) == (2, "GPU", "a")
    assert (event.extra_keys, event.group, event.kind) == ([None, ["salt"]], 3, "mla_attention")


@pytest.mark.parametrize("fields", range(4, 8))
def test_arrays_may_end_early(fields: int) -> None:
    values = ["BlockStored", [11, 12], 7, [1, 2, 3, 4], 2, None, "GPU", "ad1"][: fields + 1]
    event = only(encode([1, [values]]))
    assert (list(event.block_hashes), event.parent, list(event.token_ids), event.block_size) == (
        [11, 12], 7, [1, 2, 3, 4], 2,
    )  # fmt: skip
    assert (event.medium, event.lora_name) == ("GPU" if fields > 5 else None, "ad1" if fields > 6 else None)


def test_arrays_may_have_more_than_is_known() -> None:
    values = ["BlockStored", [11], 7, [1], 1, None, "GPU", None, [["salt"]], 2, "full_attention", None, "x", {"y": 1}]
    event = only(encode([1, [values], 3, "more"]))
    assert (event.extra_keys, event.group, event.kind) == ([["salt"]], 2, "full_attention")


def test_all_types_are_read_in_both_layouts() -> None:
    arrays = [["BlockRemoved", [5], "CPU"], ["BlockRemoved", [6]], ["AllBlocksCleared"]]
    maps = [
        {"type": "BlockRemoved", "block_hashes": [5], "medium": "CPU"},
        {"type": "BlockRemoved", "block_hashes": [6], "medium": None},
        {"type": "AllBlocksCleared"},
    ]
    wanted = [BlockRemoved([5], "CPU"), BlockRemoved([6]), AllBlocksCleared()]
    assert decode_batch(encode([1, arrays])).events == decode_batch(encode([1, maps])).events == wanted


def test_negative_hashes_become_the_same_64_bits() -> None:
    event = only(stored(block_hashes=[-1, 12], parent_block_hash=-(2**63)))
    assert (list(event.block_hashes), event.parent) == ([2**64 - 1, 12], 2**63)
    assert decode_batch(encode([1, [["BlockRemoved", [-2]]]])).events == [BlockRemoved([2**64 - 2])]


def test_hashes_may_be_digests() -> None:
    event = only(stored(block_hashes=[b"a" * 32, b"b" * 32], parent_block_hash=b"c" * 32))
    assert (list(event.block_hashes), event.parent) == ([b"a" * 32, b"b" * 32], b"c" * 32)


def test_other_types_are_counted_and_what_stands_beside_them_is_read() -> None:
    batch = decode_batch(encode([1, [{"type": "BlockMoved", "x": 1}, STORED, ["Other", 1]], 0]))
    assert (len(batch.events), batch.unknown) == (1, 2)


def test_a_block_of_another_tier_has_no_tokens() -> None:
    event = only(stored(block_hashes=[5], token_ids=[], block_size=0, medium="CPU"))
    assert (list(event.token_ids), event.medium) == ([], "CPU")


def test_a_cache_that_leaves_blocks_out_does_not_spoil_the_batch() -> None:
    event = only(stored(block_hashes=[12], kv_cache_spec_kind="sliding_window", group_idx=1))
    assert (event.kind, list(event.token_ids)) == ("sliding_window", [])


def test_an_adapter_without_a_name_sets_its_blocks_apart() -> None:
    assert only(stored(lora_id=4)).extra_keys == [[("lora_id", 4)]] * 2
    assert only(stored(lora_id=4, lora_name="a")).extra_keys is None


def test_what_the_simulated_worker_sends_is_read() -> None:
    request = Request(
        prompt_tokens=8, answer_tokens=0, hashes=[1, 2], on_first=lambda _: None, on_end=lambda _: None,
        lora="ad1", tokens=[1, 2, 3, 4, 5, 6, 7, 8], cache_salt="s",
    )  # fmt: skip
    payload = Encoder(block_size=4, loras=["ad1"]).batch([Stored(request, 0, 2), Removed(1), Cleared()], now=5.0)
    events = decode_batch(payload).events
    assert isinstance(events[0], BlockStored)
    assert (events[0].lora_name, events[0].extra_keys) == ("ad1", [["ad1", "s"], ["ad1"]])
    assert events[1:] == [BlockRemoved([1], "GPU", 0), AllBlocksCleared()]


@pytest.mark.parametrize(
    "changes",
    [
        {"token_ids": [1, 2, 3, 2**32]},
        {"token_ids": [1, 2, 3, -1]},
        {"token_ids": [1, 2, 3, 4.0]},
        {"token_ids": [1, 2, 3, True]},
        {"token_ids": [1, 2, 3]},
        {"token_ids": None},
        {"block_size": 0},
        {"block_size": 1 << 17},
        {"block_hashes": [1, "x"]},
        {"block_hashes": [1, b""]},
        {"block_hashes": [1, b"x" * 65]},
        {"parent_block_hash": 1.0},
        {"medium": 3},
        {"group_idx": -1},
    ],
)
def test_an_event_that_is_wrong_where_it_matters_is_refused(changes: dict[str, Any]) -> None:
    event = STORED | changes
    with pytest.raises(PayloadError):
        decode_batch(encode([1, [event], 0]))
    with pytest.raises(PayloadError):
        decode_batch(encode([1, [["BlockStored", *list(event.values())[1:]]] if len(event) == 8 else [event]]))


@pytest.mark.parametrize(
    "batch",
    [
        [],
        [1],
        None,
        {"ts": 1},
        [1, {}],
        [1, [3]],
        [1, [[]]],
        [1, [[3]]],
        [1, [{"x": 1}]],
        ["x", []],
        [float("nan"), []],
    ],
)
def test_what_is_no_batch_is_refused(batch: object) -> None:
    with pytest.raises(PayloadError):
        decode_batch(encode(batch))


def test_too_much_is_refused() -> None:
    with pytest.raises(PayloadError, match="bytes"):
        decode_batch(bytes(MAX_PAYLOAD_BYTES + 1))
    with pytest.raises(PayloadError):
        decode_batch(encode([1, [["AllBlocksCleared"]] * (MAX_EVENTS + 1)]))
    with pytest.raises(PayloadError, match="tokens"):
        decode_batch(stored(block_hashes=list(range(65)), token_ids=[1] * (65 << 16), block_size=1 << 16))


def test_errors_do_not_tell_the_content() -> None:
    for event in (
        STORED | {"medium": ["secret"]},
        {"type": "BlockStored", "secret": "secret"},
        ["BlockStored", "secret"],
    ):
        with pytest.raises(PayloadError) as caught:
            decode_batch(encode([1, [event], 0]))
        assert "secret" not in str(caught.value)
        assert caught.value.__suppress_context__


@pytest.mark.parametrize("byte", [b"\x91", b"\x81", b"\xc7", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff"])
def test_deep_nesting_and_false_lengths_are_refused(byte: bytes) -> None:
    for start in (b"", b"\x92\x01", b"\x92\x01\x91", b"\x92\x01\x91\x82\xa4type\xacAllBlocksCleared\xa1x"):
        with pytest.raises(PayloadError):
            decode_batch(start + byte * 100_000)


def _decodes_or_refuses(payload: bytes) -> None:
    try:
        batch = decode_batch(payload)
    except PayloadError:
        return
    for event in batch.events:
        if isinstance(event, BlockStored) and event.token_ids:
            assert len(event.token_ids) == event.block_size * len(event.block_hashes)


@given(st.binary(max_size=200))
def test_no_bytes_do_harm(payload: bytes) -> None:
    _decodes_or_refuses(payload)
    _decodes_or_refuses(b"\x92\x01" + payload)
    _decodes_or_refuses(b"\x92\x01\x91" + payload)


VALID = [
    stored(extra_keys=[["a"], [["mm", "x", 1]]], session_id="s"),
    encode([1, [["BlockStored", [1, 2], None, [1, 2], 1, None, "GPU", None], ["BlockRemoved", [1]]], 0]),
    encode([1, [STORED, {"type": "BlockRemoved", "block_hashes": [b"x" * 32], "medium": "GPU"}], 0]),
]


@given(st.sampled_from(VALID), st.integers(0, 2**32), st.integers(1, 4))
def test_no_damage_to_a_batch_does_harm(payload: bytes, seed: int, times: int) -> None:
    rng = random.Random(seed)
    damaged = bytearray(payload)
    for _ in range(times):
        at = rng.randrange(len(damaged))
        match rng.randrange(3):
            case 0:
                damaged[at] = rng.randrange(256)
            case 1:
                del damaged[at:]
            case _:
                damaged[at:at] = rng.randbytes(rng.randrange(1, 9))
        if not damaged:
            break
    _decodes_or_refuses(bytes(damaged))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text("ab", max_size=4)
    | st.binary(max_size=4),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text("ab", max_size=4), children, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*STORED, "group_idx", "extra_keys", "kv_cache_spec_kind"]), VALUES))
def test_no_value_in_any_field_does_harm(changes: dict[str, Any]) -> None:
    event = STORED | changes
    _decodes_or_refuses(encode([1, [event]]))
    _decodes_or_refuses(encode([1, [["BlockStored", *list(event.values())[1:]]]]))
