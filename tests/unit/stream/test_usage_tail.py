"""What is read out of the end of an answer: whole, cut off, streamed, or full of traps."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.stream.usage_tail import DOCUMENT_TAIL_BYTES, EVENTS_TAIL_BYTES, MAX_USAGE_BYTES, Usage, UsageTail

USAGE = {"prompt_tokens": 100, "total_tokens": 103, "prompt_tokens_details": {"cached_tokens": 96}}
FOUND = Usage(100, 96)
BAIT = {"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": 5}}
QUOTED_BAIT = json.dumps({"usage": BAIT})
LONG = "x" * 3 * DOCUMENT_TAIL_BYTES


def read(body: bytes, *, events: bool = False, chunks: int = 1) -> Usage | None:
    tail = UsageTail(events=events)
    size = max(-(-len(body) // chunks), 1)
    for start in range(0, len(body), size):
        tail.take(body[start : start + size])
    return tail.read()


def document(text: str = "Hello", *, usage: object = USAGE, compact: bool = True, **after: object) -> bytes:
    """An answer as one JSON document; ``after`` are fields behind its usage."""
    fields = {"id": "1", "choices": [{"message": {"content": text}}], "usage": usage, **after}
    return json.dumps(fields, separators=(",", ":") if compact else None).encode()


def events(*payloads: object, end: str = "\n\n") -> bytes:
    lines = [f"data: {json.dumps(payload)}" for payload in payloads]
    return "".join([line + end for line in [*lines, "data: [DONE]"]]).encode()


def piece(text: str, **more: object) -> dict[str, object]:
    return {"choices": [{"delta": {"content": text}}], **more}


@pytest.mark.parametrize("text", ["Hello", LONG], ids=["whole", "cut off"])
@pytest.mark.parametrize("compact", [True, False])
def test_a_document_is_read(text: str, compact: bool) -> None:
    assert read(document(text, compact=compact)) == FOUND
    assert read(document(text, compact=compact, prompt_logprobs=None, kv_transfer_params=[{"a": [1]}])) == FOUND


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n"])
@pytest.mark.parametrize("text", ["Hello", LONG], ids=["whole", "cut off"])
def test_the_last_usage_of_a_stream_is_read(text: str, end: str) -> None:
    closing = {"choices": [], "usage": USAGE}
    assert read(events(piece(text, usage=None), closing, end=end), events=True) == FOUND
    assert read(events(piece(text, usage=BAIT), piece("", usage=BAIT), closing, end=end), events=True) == FOUND


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        {"prompt_tokens": 100},
        {"prompt_tokens": 100, "prompt_tokens_details": None},
        {"prompt_tokens": 100, "prompt_tokens_details": {}},
        {"prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": None}},
        {"prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": "96"}},
        {"prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": 101}},
        {"prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": -1}},
        {"prompt_tokens_details": {"cached_tokens": 96}},
        [USAGE],
        "96",
        {**USAGE, "more": "x" * 2 * MAX_USAGE_BYTES, "prompt_tokens": None},
    ],
)
@pytest.mark.parametrize("text", ["Hello", LONG], ids=["whole", "cut off"])
def test_what_is_not_said_is_not_found(usage: object, text: str) -> None:
    assert read(document(text, usage=usage)) is None
    assert read(events(piece(text), {"choices": [], "usage": usage}), events=True) is None


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"usage":', b"\xff\xfe", b"[" * 100_000, b'{"usage":{' * 20_000, b'"usage":{"' * 20_000]
)
def test_what_is_no_answer_is_read_as_nothing(body: bytes) -> None:
    assert read(body) is None
    assert read(body, events=True) is None
    assert read(b"data: " + body + b"\n\n", events=True) is None


def test_an_event_that_is_there_in_part_only_is_none() -> None:
    """The beginning of the last event is cut off: what is there of it looks like data of its own."""
    text = f'{LONG}\ndata: {{"usage": {json.dumps(BAIT)}}}'
    assert read(events(piece(text)), events=True) is None
    assert read(events({"choices": [], "usage": USAGE}, piece("x" * EVENTS_TAIL_BYTES)), events=True) is None


@pytest.mark.parametrize("length", [0, 2 * DOCUMENT_TAIL_BYTES], ids=["whole", "cut off"])
@pytest.mark.parametrize(
    "trap",
    [
        QUOTED_BAIT,
        json.dumps(QUOTED_BAIT),
        f'"}}],{QUOTED_BAIT[1:]}',
        f'\\"}}],{QUOTED_BAIT[1:]}',
        '"usage":{',
        '\\"usage\\":{"prompt_tokens":1,"prompt_tokens_details":{"cached_tokens":0}}}',
    ],
)
def test_what_an_answer_quotes_is_not_believed(trap: str, length: int) -> None:
    text = "y" * length + trap
    assert read(document(text)) == FOUND
    assert read(document(text, usage=None)) is None
    assert read(document("y" * length, prompt_text=trap)) == FOUND
    assert read(document("y" * length, usage=None, prompt_text=trap)) is None
    assert read(events(piece(text), {"choices": [], "usage": USAGE}), events=True) == FOUND
    assert read(events({"choices": [], "usage": USAGE}, piece(trap)), events=True) == FOUND
    assert read(events(piece(text)), events=True) is None


@pytest.mark.parametrize("text", ["Hello", LONG], ids=["whole", "cut off"])
def test_a_usage_inside_something_else_is_not_the_documents(text: str) -> None:
    assert read(document(text, metadata={"usage": BAIT}, more=[{"usage": BAIT}, {"a": {"usage": BAIT}}])) == FOUND
    assert read(document(text, usage=None, metadata={"usage": BAIT})) is None
    assert read(document(text, usage=None, my=BAIT).replace(b'"my"', b'"my\\"usage"')) is None


@pytest.mark.parametrize("cut", range(-3, 4))
def test_a_key_that_only_ends_like_it_is_not_it_wherever_the_tail_begins(cut: int) -> None:
    """Also when it begins with the very quote whose backslash is cut off."""
    end = b'"usage":' + json.dumps({**BAIT, "z": "z"}).encode() + b',"y":"'
    end += b"y" * (DOCUMENT_TAIL_BYTES + cut - len(end) - 2) + b'"}'
    body = b'{"x":"' + LONG.encode() + b'","my\\' + end
    assert json.loads(body)['my"usage'] == {**BAIT, "z": "z"}
    assert read(body) is None


def test_nothing_is_kept_of_what_was_read_and_only_the_end_before() -> None:
    tail = UsageTail(events=False)
    for _ in range(100):
        tail.take(b"x" * 10_000)
        assert len(tail._tail) <= 2 * DOCUMENT_TAIL_BYTES
    tail.take(b"x" * 10_000_000)
    assert len(tail._tail) <= 2 * DOCUMENT_TAIL_BYTES
    tail.read()
    assert not tail._tail


@given(
    text=st.text(max_size=200) | st.just(LONG),
    cuts=st.lists(st.integers(0, 4 * DOCUMENT_TAIL_BYTES), max_size=12),
    streamed=st.booleans(),
    padding=st.integers(0, 3),
)
def test_any_cutting_into_chunks_gives_the_same(text: str, cuts: list[int], streamed: bool, padding: int) -> None:
    told = {"choices": [], "usage": USAGE}
    body = events(piece(text), told) if streamed else document(text, padding="p" * padding)
    places = sorted({0, len(body), *[cut % (len(body) + 1) for cut in cuts]})
    tail = UsageTail(events=streamed)
    for start, end in itertools.pairwise(places):
        tail.take(body[start:end])
    assert tail.read() == FOUND


@given(st.binary(max_size=300), st.booleans(), st.integers(1, 20))
def test_any_bytes_are_read_as_something_or_nothing(noise: bytes, streamed: bool, chunks: int) -> None:
    body = b'{"usage":' + noise + b',"usage":{' + noise
    assert read(body, events=streamed, chunks=chunks) == read(body, events=streamed)
    long = b"x" * DOCUMENT_TAIL_BYTES + body
    assert read(long, events=streamed, chunks=chunks) == read(long, events=streamed)
