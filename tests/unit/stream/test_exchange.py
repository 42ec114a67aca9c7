"""The state machine in every mode. What the real Envoy makes of the replies is shown in ``tests/e2e``."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.errors import BodyTooLarge, HeadersUnavailable, NoEndpoint
from extproc.pb.ext_proc_pb2 import ProcessingRequest
from extproc.stream.exchange import Exchange
from tests.support import messages as m

ENDPOINTS = "10.0.0.1:8000,10.0.0.2:8000"
WITHHOLDING = ["pipelined", "full_duplex", "absent"]
ECHOING = ["full_duplex", "absent"]
ALL = list(m.MODES)


def exchange(*, needs_body: bool = True, max_body_bytes: int = 1 << 20) -> Exchange:
    return Exchange(needs_body=lambda _method, _path: needs_body, max_body_bytes=max_body_bytes)


def run(target: Exchange, *sent: ProcessingRequest) -> list[bytes]:
    """Send messages, deciding as soon as a decision is wanted; return every reply."""
    replies: list[bytes] = []
    for message in sent:
        replies += target.receive(message)
        if target.wanted:
            replies += target.routed(ENDPOINTS)
    return replies


@pytest.mark.parametrize("mode", ALL)
def test_request_without_body_is_routed_by_one_headers_reply(mode: str) -> None:
    replies = run(exchange(), m.request_headers(mode, method="GET", path="/v1/models", end_of_stream=True))
    assert m.kinds(replies) == ["request_headers"]
    assert m.destinations(replies) == [ENDPOINTS]


@pytest.mark.parametrize("mode", ["buffered", "buffered_partial"])
def test_buffered_answers_headers_at_once_and_routes_with_the_body(mode: str) -> None:
    target = exchange()
    assert m.kinds(run(target, m.request_headers(mode))) == ["request_headers"]
    replies = run(target, m.request_body(b"abc"))
    assert m.kinds(replies) == ["request_body"]
    assert m.destinations(replies) == [ENDPOINTS]


def test_buffered_routes_with_headers_and_declines_the_body_when_nothing_in_it_is_needed() -> None:
    target = exchange(needs_body=False)
    replies = run(target, m.request_headers("buffered"))
    (reply,) = m.parse(replies)
    assert m.destinations(replies) == [ENDPOINTS]
    assert reply.HasField("mode_override")
    assert reply.mode_override.request_body_mode == 0
    # A data plane that does not allow the override sends the body anyway.
    assert m.kinds(run(target, m.request_body(b"abc"))) == ["request_body"]


@pytest.mark.parametrize("mode", WITHHOLDING)
def test_headers_reply_is_withheld_until_the_end_of_the_body(mode: str) -> None:
    target = exchange()
    assert run(target, m.request_headers(mode), m.request_body(b"ab", end_of_stream=False)) == []
    assert m.kinds(run(target, m.request_body(b"c"))) == ["request_headers", "request_body", "request_body"]


@pytest.mark.parametrize("mode", WITHHOLDING)
def test_headers_are_answered_at_once_when_nothing_in_the_body_is_needed(mode: str) -> None:
    target = exchange(needs_body=False)
    assert m.kinds(run(target, m.request_headers(mode))) == ["request_headers"]
    assert m.kinds(run(target, m.request_body(b"ab", end_of_stream=False))) == ["request_body"]
    assert m.kinds(run(target, m.request_body(b""))) == ["request_body"]


@pytest.mark.parametrize("mode", ["none", "streamed"])
def test_modes_that_keep_back_the_body_route_with_headers_and_say_so(mode: str) -> None:
    target = exchange()
    assert target.receive(m.request_headers(mode)) == []
    assert target.wanted
    assert target.request.body_withheld
    assert m.destinations(target.routed(ENDPOINTS)) == [ENDPOINTS]


@pytest.mark.parametrize("mode", ECHOING)
@pytest.mark.parametrize("size", [0, 1, 30, 62_000, 62_001, 500_000])
def test_full_duplex_passes_the_body_on_unchanged_in_bounded_chunks(mode: str, size: int) -> None:
    body = bytes(index % 251 for index in range(size))
    sent, flags = m.streamed(run(exchange(), m.request_headers(mode), m.request_body(body)))
    assert sent == body
    assert flags == [False] * (len(flags) - 1) + [True]


@given(
    chunks=st.lists(st.binary(max_size=200), max_size=8),
    trailers=st.booleans(),
    needs_body=st.booleans(),
    repeats=st.integers(0, 2),
)
def test_full_duplex_body_survives_any_cutting_with_or_without_trailers(
    chunks: list[bytes], trailers: bool, needs_body: bool, repeats: int
) -> None:
    sent = [m.request_headers("full_duplex")]
    sent += [m.request_body(chunk, end_of_stream=False) for chunk in chunks]
    sent.append(m.request_trailers() if trailers else m.request_body(b"end"))
    sent += [m.request_body(b"end")] * repeats
    replies = run(exchange(needs_body=needs_body), *sent)
    body, flags = m.streamed(replies)
    assert body == b"".join(chunks) + (b"" if trailers else b"end")
    assert flags.count(True) == (0 if trailers else 1)
    assert m.kinds(replies)[0] == "request_headers"
    assert m.kinds(replies).count("request_trailers") == int(trailers)
    assert m.destinations(replies) == [ENDPOINTS]


def test_payload_is_the_whole_body() -> None:
    target = exchange()
    for message in (m.request_headers("full_duplex"), m.request_body(b"ab", end_of_stream=False), m.request_body(b"c")):
        target.receive(message)
    assert target.request.payload == b"abc"


def test_nothing_of_the_prompt_is_kept_after_the_decision() -> None:
    target = exchange()
    run(target, m.request_headers("buffered"), m.request_body(b"secret"))
    assert target.request.payload is None
    assert target.request.headers == {}


@pytest.mark.parametrize("mode", ALL)
def test_anything_after_the_first_end_of_stream_is_ignored(mode: str) -> None:
    target = exchange()
    run(target, m.request_headers(mode), m.request_body(b"abc"))
    assert run(target, m.request_body(b"abc"), m.request_body(b"d"), m.request_trailers()) == []


def test_a_second_headers_message_is_ignored() -> None:
    target = exchange()
    run(target, m.request_headers("buffered"))
    assert run(target, m.request_headers("buffered", path="/other")) == []


@pytest.mark.parametrize("mode", ["buffered", "pipelined", "full_duplex"])
def test_trailers_end_a_request_whose_body_did_not(mode: str) -> None:
    sent = (m.request_headers(mode), m.request_body(b"abc", end_of_stream=False), m.request_trailers())
    replies = run(exchange(), *sent)
    assert m.kinds(replies) == ["request_headers", "request_body", "request_trailers"]
    assert m.destinations(replies) == [ENDPOINTS]


def test_buffered_trailers_without_a_body_carry_the_decision_in_metadata() -> None:
    replies = run(exchange(), m.request_headers("buffered"), m.request_trailers())
    assert m.kinds(replies) == ["request_headers", "request_trailers"]
    assert m.destinations(replies) == [ENDPOINTS]


def test_a_partial_body_is_marked_as_truncated() -> None:
    target = exchange()
    target.receive(m.request_headers("buffered_partial"))
    target.receive(m.request_body(b'{"mod', end_of_stream=False))
    assert target.wanted
    assert target.request.truncated


@pytest.mark.parametrize("mode", ALL)
@pytest.mark.parametrize("message", [m.request_body(b"secret"), m.request_trailers()], ids=["body", "trailers"])
def test_a_request_without_headers_is_refused_and_nothing_of_it_is_kept(mode: str, message: ProcessingRequest) -> None:
    first = ProcessingRequest()
    first.CopyFrom(message)
    config = m.MODES[mode]
    if config is not None:
        first.protocol_config.CopyFrom(config)
    target = exchange()
    with pytest.raises(HeadersUnavailable):
        target.receive(first)
    assert not target.wanted
    assert exchange().request.payload is None


@pytest.mark.parametrize("mode", ALL)
def test_response_phases_are_answered_without_a_request_phase(mode: str) -> None:
    target = exchange()
    replies = run(
        target,
        m.response_headers(mode),
        m.response_body(b"data: 1", end_of_stream=False),
        m.response_body(b"", end_of_stream=False),
        m.response_trailers(),
    )
    assert m.kinds(replies) == ["response_headers", "response_body", "response_body", "response_trailers"]


@pytest.mark.parametrize("mode", ECHOING)
def test_full_duplex_passes_the_response_body_on_unchanged(mode: str) -> None:
    body = bytes(range(256)) * 500
    replies = run(exchange(), m.response_headers(mode), m.response_body(body), m.response_body(body))
    assert m.streamed(replies, "response") == (body, [False, False, True])


def test_buffered_response_body_is_left_alone() -> None:
    (_, reply) = m.parse(run(exchange(), m.response_headers("buffered"), m.response_body(b"abc")))
    assert not reply.response_body.HasField("response")


def test_the_decision_is_shown_in_the_response_headers_when_asked_for() -> None:
    target = exchange()
    target.receive(m.request_headers("buffered", end_of_stream=True))
    target.routed(ENDPOINTS, "worker=a; policy=random; reason=random")
    (reply,) = m.parse(target.receive(m.response_headers()))
    (option,) = reply.response_headers.response.header_mutation.set_headers
    assert option.header.key == "x-extproc-decision"
    assert option.header.raw_value == b"worker=a; policy=random; reason=random"


def test_a_refusal_is_one_immediate_response_and_then_silence() -> None:
    target = exchange()
    target.receive(m.request_headers("full_duplex"))
    target.receive(m.request_body(b"abc"))
    (reply,) = m.parse(target.refused(NoEndpoint("nobody")))
    assert reply.immediate_response.status.code == 503
    assert run(target, m.request_body(b"abc"), m.response_headers(), m.response_body(b"x")) == []


def test_a_request_left_open_names_no_endpoint_and_removes_the_clients() -> None:
    target = exchange()
    target.receive(m.request_headers("full_duplex"))
    target.receive(m.request_body(b"abc"))
    replies = target.left_open()
    assert m.destinations(replies) == []
    mutation = m.parse(replies)[0].request_headers.response.header_mutation
    assert list(mutation.remove_headers) == [m.DESTINATION]
    assert m.streamed(replies) == (b"abc", [True])


@pytest.mark.parametrize("mode", ["buffered", "full_duplex"])
@pytest.mark.parametrize("length", ["101", "9" * 5000], ids=["101", "5,000 digits"])
def test_a_declared_length_over_the_cap_is_refused_before_the_body(mode: str, length: str) -> None:
    target = exchange(max_body_bytes=100)
    with pytest.raises(BodyTooLarge):
        target.receive(m.request_headers(mode, headers={"content-length": length}))


@pytest.mark.parametrize("mode", ["buffered", "full_duplex"])
def test_a_body_that_grows_over_the_cap_is_refused(mode: str) -> None:
    target = exchange(max_body_bytes=100)
    target.receive(m.request_headers(mode))
    if mode == "full_duplex":
        target.receive(m.request_body(b"x" * 100, end_of_stream=False))
    with pytest.raises(BodyTooLarge):
        target.receive(m.request_body(b"x" * 101))


@pytest.mark.parametrize("raw", [True, False], ids=["raw_value", "value"])
def test_header_values_are_read_from_either_field(raw: bool) -> None:
    target = exchange()
    target.receive(m.request_headers("buffered", path="/p", headers={"x-a": "1"}, end_of_stream=True, raw=raw))
    assert (target.request.path, target.request.headers["x-a"]) == ("/p", "1")


@pytest.mark.parametrize(
    ("subset", "expected"),
    [
        (None, None),
        ([], ()),
        ("", ()),
        (["10.0.0.1:8000", "10.0.0.2:8000"], ("10.0.0.1:8000", "10.0.0.2:8000")),
        ("10.0.0.1:8000, 10.0.0.2", ("10.0.0.1:8000", "10.0.0.2")),
    ],
)
def test_subset_hint_is_read_as_list_or_text(subset: list[str] | str | None, expected: tuple[str, ...] | None) -> None:
    target = exchange()
    target.receive(m.request_headers("buffered", subset=subset, end_of_stream=True))
    assert target.request.subset == expected


def test_observed_exchanges_are_not_answered() -> None:
    message = m.request_headers("streamed")
    message.observability_mode = True
    assert run(exchange(), message) == []


def test_an_empty_message_is_ignored() -> None:
    assert run(exchange(), ProcessingRequest()) == []


def test_a_late_decision_still_passes_everything_on_in_order() -> None:
    target = exchange(needs_body=False)
    assert target.receive(m.request_headers("full_duplex")) == []
    assert target.receive(m.request_body(b"ab", end_of_stream=False)) == []
    assert target.receive(m.request_body(b"c")) == []
    replies = target.routed(ENDPOINTS)
    assert m.kinds(replies)[0] == "request_headers"
    assert m.streamed(replies) == (b"abc", [False, True])
