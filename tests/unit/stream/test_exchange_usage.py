"""How the body of an answer comes to be read, in every mode, without changing or holding any of it."""

from collections.abc import Mapping

import pytest

from extproc.pb.ext_proc_pb2 import (
    BUFFERED,
    BUFFERED_PARTIAL,
    FULL_DUPLEX_STREAMED,
    NONE,
    STREAMED,
    ProcessingRequest,
    ProcessingResponse,
)
from extproc.stream.exchange import Exchange
from extproc.stream.usage_tail import Usage
from tests.support import messages as m

JSON: Mapping[str, str] = {"content-type": "application/json"}
EVENTS: Mapping[str, str] = {"content-type": "text/event-stream; charset=utf-8"}
USAGE = b'{"usage":{"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":8}}}'
FOUND = Usage(9, 8)


def routed(mode: str = "buffered", *, response_mode: int = NONE, wanted: bool = True) -> Exchange:
    """An exchange whose request is routed."""
    target = Exchange(needs_body=lambda _method, _path: True, max_body_bytes=1 << 20)
    headers = m.request_headers(mode)
    if headers.HasField("protocol_config"):
        headers.protocol_config.response_body_mode = response_mode  # type: ignore[assignment]  # one of the modes
    for message in (headers, m.request_body(b"{}")):
        target.receive(message)
        if target.wanted:
            target.usage_wanted = wanted
            target.routed("10.0.0.1:80")
    return target


def reply_to(target: Exchange, message: ProcessingRequest) -> ProcessingResponse:
    (reply,) = m.parse(target.receive(message))
    return reply


def read(target: Exchange, body: bytes, size: int = 10) -> Usage | None:
    """Let the body pass in chunks; what was seen of it."""
    for start in range(0, len(body), size):
        last = start + size >= len(body)
        assert m.kinds(target.receive(m.response_body(body[start : start + size], end_of_stream=last)))[0] == (
            "response_body"
        )
    return None if target.usage is None else target.usage.read()


@pytest.mark.parametrize(("headers", "body"), [(JSON, USAGE), (EVENTS, b"data: " + USAGE + b"\n\ndata: [DONE]\n\n")])
@pytest.mark.parametrize("mode", ["none", "buffered", "buffered_partial", "streamed"])
def test_a_body_that_would_not_come_is_asked_for_and_left_alone(
    mode: str, headers: Mapping[str, str], body: bytes
) -> None:
    target = routed(mode)
    reply = reply_to(target, m.response_headers(headers=headers))
    assert reply.mode_override.response_body_mode == STREAMED
    assert reply.mode_override.request_body_mode == m.MODES[mode].request_body_mode  # type: ignore[union-attr]  # these have one
    chunk = reply_to(target, m.response_body(body, end_of_stream=False))
    assert not chunk.response_body.HasField("response")
    assert target.dispensable, "what waits for us passes unchanged when we leave"
    assert read(target, b"\n") == FOUND
    assert target.ends_with_answer


@pytest.mark.parametrize("response_mode", [STREAMED, BUFFERED, BUFFERED_PARTIAL])
def test_a_body_that_comes_anyway_is_read_as_it_passes(response_mode: int) -> None:
    target = routed(response_mode=response_mode)
    assert not reply_to(target, m.response_headers(headers=JSON)).HasField("mode_override")
    assert read(target, USAGE) == FOUND


@pytest.mark.parametrize("mode", ["full_duplex", "absent"])
def test_a_full_duplex_body_is_echoed_and_read(mode: str) -> None:
    target = routed(mode, response_mode=FULL_DUPLEX_STREAMED)
    assert not reply_to(target, m.response_headers(headers=JSON)).HasField("mode_override")
    replies = [*target.receive(m.response_body(USAGE, end_of_stream=False)), *target.receive(m.response_body(b" "))]
    assert m.streamed(replies, "response") == (USAGE + b" ", [False, True])
    assert target.usage is not None
    assert target.usage.read() == FOUND


@pytest.mark.parametrize("mode", ["pipelined", "full_duplex"])
def test_a_data_plane_that_takes_no_override_is_not_asked(mode: str) -> None:
    target = routed(mode)
    assert not reply_to(target, m.response_headers(headers=JSON)).HasField("mode_override")
    assert target.usage is None


def test_a_request_body_that_was_declined_stays_declined() -> None:
    target = Exchange(needs_body=lambda _method, _path: False, max_body_bytes=1 << 20)
    target.receive(m.request_headers("buffered"))
    target.usage_wanted = True
    target.routed("10.0.0.1:80")
    override = reply_to(target, m.response_headers(headers=JSON)).mode_override
    assert (override.request_body_mode, override.response_body_mode) == (NONE, STREAMED)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/json-seq"},
        {**JSON, "content-encoding": "gzip"},
        {**EVENTS, "content-encoding": "br"},
        {**JSON, ":status": "404"},
        {**JSON, ":status": "201"},
    ],
)
@pytest.mark.parametrize("response_mode", [NONE, STREAMED])
def test_what_is_no_good_answer_in_plain_json_is_not_read(headers: Mapping[str, str], response_mode: int) -> None:
    target = routed(response_mode=response_mode)
    assert not reply_to(target, m.response_headers(headers=headers)).HasField("mode_override")
    assert read(target, USAGE) is None


def test_the_plainest_encoding_is_read() -> None:
    target = routed()
    assert reply_to(target, m.response_headers(headers={**JSON, "content-encoding": "identity"})).HasField(
        "mode_override"
    )


def test_an_answer_without_a_body_is_not_asked_for_one() -> None:
    target = routed()
    assert not reply_to(target, m.response_headers(headers=JSON, end_of_stream=True)).HasField("mode_override")
    assert target.usage is None


def test_without_its_being_wanted_nothing_is_asked_for_or_kept() -> None:
    for response_mode in (NONE, STREAMED, FULL_DUPLEX_STREAMED):
        target = routed(response_mode=response_mode, wanted=False)
        assert not reply_to(target, m.response_headers(headers=JSON)).HasField("mode_override")
        assert read(target, USAGE) is None


def test_what_comes_after_the_end_is_not_read() -> None:
    target = routed()
    target.receive(m.response_headers(headers=JSON))
    target.receive(m.response_body(USAGE))
    target.receive(m.response_body(USAGE))
    assert target.usage is not None
    assert target.usage.read() == FOUND
