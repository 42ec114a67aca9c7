"""What hooks change of a request, on its way to the data plane in every mode."""

import gc
import sys
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.api.request import Changes
from extproc.pb.ext_proc_pb2 import ProcessingRequest, ProcessingResponse
from extproc.stream.exchange import Exchange
from tests.support import messages as m

ENDPOINTS = "10.0.0.1:8000,10.0.0.2:8000"
CHANGES = Changes(headers=(("x-a", "1"), ("x-b", "é"), ("x-a", "2")), metadata=(("team", "red"),))
READING = ["buffered", "buffered_partial", "pipelined", "full_duplex", "absent"]
ECHOING = ["full_duplex", "absent"]


def played(
    mode: str, *sent: ProcessingRequest, changes: Changes | None, needs_body: bool = True, left_open: bool = False
) -> list[bytes]:
    """Send messages and decide, with a hook's changes, as soon as a decision is wanted; return every reply."""
    exchange = Exchange(needs_body=lambda _method, _path: needs_body, max_body_bytes=1 << 20)
    replies: list[bytes] = []
    for message in (m.request_headers(mode), *sent):
        replies += exchange.receive(message)
        if exchange.wanted:
            exchange.request.changes = changes
            replies += exchange.left_open() if left_open else exchange.routed(ENDPOINTS)
    return replies


def whole(*pieces: bytes, trailers: bool = False) -> list[ProcessingRequest]:
    sent = [m.request_body(piece, end_of_stream=False) for piece in pieces]
    if trailers:
        return [*sent, m.request_trailers()]
    return [*sent[:-1], m.request_body(pieces[-1])]


def headers_set(replies: Iterable[bytes]) -> dict[str, str]:
    """Every header that is set, by the last value; a header may be set once in a reply, or by each of several hooks."""
    found = {}
    for reply in m.parse(replies):
        kind = str(reply.WhichOneof("response"))
        if kind in ("request_headers", "request_body"):
            for option in getattr(reply, kind).response.header_mutation.set_headers:
                assert option.append_action == option.OVERWRITE_IF_EXISTS_OR_ADD
                found[option.header.key] = option.header.raw_value.decode()
    return found


def metadata(replies: Iterable[bytes]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for reply in m.parse(replies):
        for namespace, value in reply.dynamic_metadata.fields.items():
            fields = value.struct_value.fields
            found[namespace] = {key: field.string_value for key, field in fields.items()}
    return found


def worker_gets(mode: str, replies: list[bytes], sent: list[bytes]) -> bytes:
    """The body that the data plane makes of replies to chunks of a body, as the protocol has it."""
    if mode in ECHOING:
        return m.streamed(replies)[0]
    answers = [reply for reply in m.parse(replies) if reply.WhichOneof("response") == "request_body"]
    assert len(answers) == len(sent)
    return b"".join(_piece(answer, chunk) for answer, chunk in zip(answers, sent, strict=True))


def _piece(answer: ProcessingResponse, chunk: bytes) -> bytes:
    mutation = answer.request_body.response.body_mutation
    kind = mutation.WhichOneof("mutation")
    if kind == "body":
        return bytes(mutation.body)
    return b"" if kind == "clear_body" and mutation.clear_body else chunk


@pytest.mark.parametrize("mode", READING)
def test_headers_and_metadata_go_with_the_decision(mode: str) -> None:
    replies = played(mode, m.request_body(b"abc"), changes=CHANGES)
    headers = headers_set(replies)
    assert headers == {m.DESTINATION: ENDPOINTS, "x-a": "2", "x-b": "é"}
    assert metadata(replies) == {"envoy.lb": {m.DESTINATION: ENDPOINTS}, "extproc": {"team": "red"}}
    assert worker_gets(mode, replies, [b"abc"]) == b"abc"


@pytest.mark.parametrize("mode", [*READING, "none", "streamed"])
def test_they_go_with_the_headers_where_no_body_is_needed(mode: str) -> None:
    replies = played(mode, changes=CHANGES, needs_body=False)
    assert m.kinds(replies) == ["request_headers"]
    assert headers_set(replies)["x-a"] == "2"
    assert metadata(replies)["extproc"] == {"team": "red"}


@pytest.mark.parametrize("mode", READING)
@pytest.mark.parametrize("trailers", [False, True])
def test_another_body_takes_the_place_of_the_whole_body_and_its_length_is_told(mode: str, trailers: bool) -> None:
    chunks = [b"one"] if mode.startswith("buffered") else [b"one", b"", b"two"]
    body = b"another"
    replies = played(mode, *whole(*chunks, trailers=trailers), changes=Changes(body=body))
    assert worker_gets(mode, replies, chunks) == body
    assert headers_set(replies)["content-length"] == str(len(body))
    assert m.destinations(replies) == [ENDPOINTS]
    if mode in ECHOING:
        assert m.streamed(replies)[1] == [not trailers]
    assert m.kinds(replies).count("request_trailers") == int(trailers)


@given(
    chunks=st.lists(st.binary(max_size=100), min_size=1, max_size=6),
    size=st.sampled_from([1, 61_999, 62_000, 62_001, 200_000]),
    mode=st.sampled_from(["pipelined", "full_duplex"]),
    trailers=st.booleans(),
    repeats=st.integers(0, 2),
)
def test_another_body_of_any_size_survives_any_cutting(
    chunks: list[bytes], size: int, mode: str, trailers: bool, repeats: int
) -> None:
    body = (bytes(range(251)) * (size // 251 + 1))[:size]
    sent = whole(*chunks, trailers=trailers) + [m.request_body(b"again")] * repeats
    replies = played(mode, *sent, changes=Changes(body=body))
    assert worker_gets(mode, replies, chunks) == body
    assert headers_set(replies)["content-length"] == str(size)


@pytest.mark.parametrize("mode", READING)
def test_a_request_that_is_left_open_goes_as_hooks_have_changed_it(mode: str) -> None:
    changes = Changes(headers=(("x-a", "1"),), metadata=(("team", "red"),), body=b"another")
    replies = played(mode, m.request_body(b"abc"), changes=changes, left_open=True)
    assert headers_set(replies) == {"x-a": "1", "content-length": "7"}
    assert metadata(replies) == {"extproc": {"team": "red"}}
    assert worker_gets(mode, replies, [b"abc"]) == b"another"


@pytest.mark.parametrize("mode", READING)
def test_nothing_of_a_changed_request_is_kept(mode: str) -> None:
    """Replies are remembered by their endpoints; one with a body would keep it, and there may be thousands."""
    body = bytes(100)
    before = sys.getrefcount(body)
    replies = played(mode, m.request_body(b"abc"), changes=Changes(body=body))
    assert worker_gets(mode, replies, [b"abc"]) == body
    gc.collect()
    assert sys.getrefcount(body) == before
