import json

import pytest

from extproc.api.request import Changes
from extproc.errors import InvalidRequest, ModelNotFound, NoEndpoint, Refusal
from extproc.pb.ext_proc_pb2 import BUFFERED, NONE, STREAMED, ProcessingResponse
from extproc.stream import replies
from tests.support import messages as m


@pytest.mark.parametrize("make", [lambda e: replies.routed_headers(e, skip_body=False), replies.routed_body])
def test_destination_is_in_header_and_metadata_and_overwrites(make: object) -> None:
    reply = make("10.0.0.1:80,10.0.0.2:80")  # type: ignore[operator]
    (parsed,) = m.parse([reply])
    assert m.header_destination(parsed) == m.metadata_destination(parsed) == "10.0.0.1:80,10.0.0.2:80"
    kind = str(parsed.WhichOneof("response"))
    (option,) = getattr(parsed, kind).response.header_mutation.set_headers
    assert option.append_action == option.OVERWRITE_IF_EXISTS_OR_ADD


@pytest.mark.parametrize(
    ("refusal", "status", "error"),
    [
        (
            InvalidRequest("wrong", param="messages"),
            400,
            {"message": "wrong", "type": "invalid_request_error", "param": "messages", "code": None},
        ),
        (
            ModelNotFound("no such model", param="model"),
            404,
            {
                "message": "no such model",
                "type": "invalid_request_error",
                "param": "model",
                "code": "model_not_found",
            },
        ),
        (
            NoEndpoint("nobody"),
            503,
            {"message": "nobody", "type": "server_error", "param": None, "code": "no_endpoint"},
        ),
    ],
)
def test_refusals_are_openai_errors(refusal: Refusal, status: int, error: dict[str, object]) -> None:
    (reply,) = m.parse([replies.immediate(refusal)])
    assert reply.immediate_response.status.code == status
    assert json.loads(reply.immediate_response.body) == {"error": error}


def test_only_what_may_pass_names_a_time_to_retry_after() -> None:
    def names(refusal: Refusal) -> set[str]:
        (reply,) = m.parse([replies.immediate(refusal)])
        return {option.header.key for option in reply.immediate_response.headers.set_headers}

    assert names(NoEndpoint("x")) == {"content-type", "x-extproc-reason", "retry-after"}
    assert names(InvalidRequest("x")) == {"content-type", "x-extproc-reason"}


def test_a_body_is_asked_for_beside_whatever_else_is_said() -> None:
    asked, both, neither = m.parse(
        [
            replies.response_headers(None, streams_body=True, request_mode=BUFFERED),
            replies.response_headers("why", streams_body=True),
            replies.response_headers("why"),
        ]
    )
    assert (asked.mode_override.response_body_mode, asked.mode_override.request_body_mode) == (STREAMED, BUFFERED)
    assert not asked.response_headers.response.header_mutation.set_headers
    assert (both.mode_override.response_body_mode, both.mode_override.request_body_mode) == (STREAMED, NONE)
    for reply in (both, neither):
        (option,) = reply.response_headers.response.header_mutation.set_headers
        assert (option.header.key, option.header.raw_value) == ("x-extproc-decision", b"why")
    assert not neither.HasField("mode_override")


@pytest.mark.parametrize("make", [replies.request_chunks, replies.response_chunks])
@pytest.mark.parametrize(("size", "count"), [(0, 1), (62_000, 1), (62_001, 2), (124_001, 3)])
def test_chunks_are_bounded_and_only_the_last_ends_the_stream(make: object, size: int, count: int) -> None:
    chunks = make(b"x" * size, end_of_stream=True)  # type: ignore[operator]
    direction = "request" if make is replies.request_chunks else "response"
    body, flags = m.streamed(chunks, direction)
    assert len(body) == size
    assert flags == [False] * (count - 1) + [True]


def with_rank(kind: str, rank: int | None, changes: Changes | None) -> ProcessingResponse:
    if kind == "request_headers":
        reply = replies.routed_headers("a:1", skip_body=False, rank=rank, changes=changes)
    else:
        reply = replies.routed_body("a:1", rank=rank, changes=changes)
    return m.parse([reply])[0]


@pytest.mark.parametrize("changes", [None, Changes(headers=(("x-data-parallel-rank", "7"), ("x-tenant", "t")))])
@pytest.mark.parametrize("kind", ["request_headers", "request_body"])
def test_a_rank_is_set_over_what_anybody_else_has_set(kind: str, changes: Changes | None) -> None:
    for rank in (0, 1, 0):
        option = getattr(with_rank(kind, rank, changes), kind).response.header_mutation.set_headers[-1]
        assert (option.header.key, option.header.raw_value) == ("x-data-parallel-rank", str(rank).encode())
        assert option.append_action == option.OVERWRITE_IF_EXISTS_OR_ADD
    assert str(with_rank(kind, None, changes)).count("x-data-parallel-rank") == (0 if changes is None else 1)
