"""Every ``ProcessingResponse`` this service writes, serialised.

Constant replies are made once; routed replies depend only on the endpoint list, of which there are few, so they are
remembered (bounded).
"""

import functools
import json
from typing import Literal

from extproc.api.request import Changes
from extproc.errors import Refusal
from extproc.pb.ext_proc_pb2 import (
    NONE,
    STREAMED,
    BodyResponse,
    CommonResponse,
    HeaderMutation,
    HeadersResponse,
    HeaderValue,
    HeaderValueOption,
    ProcessingResponse,
    TrailersResponse,
)

DESTINATION = "x-gateway-destination-endpoint"
ATTEMPT_TIMEOUT = "x-envoy-upstream-rq-per-try-timeout-ms"
"""Header by which Envoy's router filter takes a request's limit for each attempt; it does not reach the worker."""
SERVED = f"{DESTINATION}-served"
DESTINATION_NAMESPACE = "envoy.lb"
HOOKS_NAMESPACE = "extproc"
DECISION_HEADER = "x-extproc-decision"
REASON_HEADER = "x-extproc-reason"

STREAMED_CHUNK_BYTES = 62_000
"""Largest body chunk in a full-duplex reply; the reference endpoint picker's limit, below Envoy's message limits."""

_OVERWRITE = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD

REQUEST_HEADERS_CONTINUE = ProcessingResponse(request_headers=HeadersResponse()).SerializeToString()
REQUEST_BODY_CONTINUE = ProcessingResponse(request_body=BodyResponse()).SerializeToString()
REQUEST_TRAILERS_CONTINUE = ProcessingResponse(request_trailers=TrailersResponse()).SerializeToString()
RESPONSE_HEADERS_CONTINUE = ProcessingResponse(response_headers=HeadersResponse()).SerializeToString()
RESPONSE_BODY_CONTINUE = ProcessingResponse(response_body=BodyResponse()).SerializeToString()
RESPONSE_TRAILERS_CONTINUE = ProcessingResponse(response_trailers=TrailersResponse()).SerializeToString()


def routed_headers(
    endpoints: str | None, *, skip_body: bool, attempt_secs: int = 0, changes: Changes | None = None
) -> bytes:
    """The reply to request headers that carries the destination.

    ``endpoints`` None leaves the request to the data plane's own balancing. ``skip_body`` asks a data plane that would
    send the body next (and allows a mode override) not to: nothing in it is needed. ``attempt_secs`` limits each
    worker's time to the response headers (0: not at all). ``changes`` are what hooks change; a changed body has to
    follow.
    """
    if changes is None:
        return _routed_headers(endpoints, attempt_secs, skip_body=skip_body)
    return _headers_reply(endpoints, attempt_secs, changes, skip_body=skip_body)


def routed_body(endpoints: str | None, attempt_secs: int = 0, changes: Changes | None = None) -> bytes:
    """The reply to a buffered request body that carries the destination; arguments as above."""
    if changes is None:
        return _routed_body(endpoints, attempt_secs)
    return _body_reply(endpoints, attempt_secs, changes)


@functools.lru_cache(maxsize=4096)
def routed_trailers(endpoints: str | None) -> bytes:
    """The reply to request trailers where the data plane sent no body before them; None as above."""
    return _with_metadata(ProcessingResponse(request_trailers=TrailersResponse()), endpoints, None)


def replaced_chunk(body: bytes) -> bytes:
    """The reply to one chunk of a streamed body that has ``body`` in its place; nothing, when that is empty."""
    reply = ProcessingResponse()
    mutation = reply.request_body.response.body_mutation
    if body:
        mutation.body = body
    else:
        mutation.clear_body = True
    return reply.SerializeToString()


def request_chunks(body: bytes, *, end_of_stream: bool) -> list[bytes]:
    """Full-duplex replies that pass one chunk of the request body on unchanged."""
    return _chunks("request_body", body, end_of_stream=end_of_stream)


def response_chunks(body: bytes, *, end_of_stream: bool) -> list[bytes]:
    """Full-duplex replies that pass one chunk of the response body on unchanged."""
    return _chunks("response_body", body, end_of_stream=end_of_stream)


def response_headers(decision: str | None, *, streams_body: bool = False, request_mode: int = NONE) -> bytes:
    """The reply to response headers, with the decision for the client, or None.

    ``streams_body`` asks a data plane that would keep the response body to itself to send it in chunks, and to leave
    the request's in ``request_mode``.
    """
    reply = ProcessingResponse(response_headers=HeadersResponse())
    if decision is not None:
        reply.response_headers.response.header_mutation.set_headers.append(_header(DECISION_HEADER, decision))
    if streams_body:
        reply.mode_override.request_body_mode = request_mode  # type: ignore[assignment]  # as the data plane named it
        reply.mode_override.response_body_mode = STREAMED
    return reply.SerializeToString()


def immediate(refusal: Refusal, *, anthropic: bool = False) -> bytes:
    """The answer to a refused request: OpenAI's error object, with the status and reason of the error's class.

    ``anthropic`` adds the outer ``type`` that clients of ``/v1/messages`` look for.
    """
    error = {"message": refusal.message, "type": refusal.type, "param": refusal.param, "code": refusal.code}
    document = {"type": "error", "error": error} if anthropic else {"error": error}
    reply = ProcessingResponse()
    answer = reply.immediate_response
    answer.status.code = refusal.status
    answer.headers.set_headers.append(_header("content-type", "application/json"))
    answer.headers.set_headers.append(_header(REASON_HEADER, refusal.reason))
    if refusal.retry_after_secs is not None:
        answer.headers.set_headers.append(_header("retry-after", str(refusal.retry_after_secs)))
    answer.body = json.dumps(document, ensure_ascii=False).encode()
    answer.details = f"extproc_{refusal.reason}"
    return reply.SerializeToString()


def _chunks(phase: Literal["request_body", "response_body"], body: bytes, *, end_of_stream: bool) -> list[bytes]:
    replies = []
    # An empty chunk is passed on too: it may be what ends the stream.
    for start in range(0, len(body) or 1, STREAMED_CHUNK_BYTES):
        reply = ProcessingResponse()
        chunk = getattr(reply, phase).response.body_mutation.streamed_response
        chunk.body = body[start : start + STREAMED_CHUNK_BYTES]
        chunk.end_of_stream = end_of_stream and start + STREAMED_CHUNK_BYTES >= len(body)
        replies.append(reply.SerializeToString())
    return replies


def _headers_reply(endpoints: str | None, attempt_secs: int, changes: Changes | None, *, skip_body: bool) -> bytes:
    reply = ProcessingResponse(request_headers=HeadersResponse(response=_routed(endpoints, attempt_secs, changes)))
    if skip_body:
        reply.mode_override.request_body_mode = NONE
        reply.mode_override.response_body_mode = NONE
    return _with_metadata(reply, endpoints, changes)


def _body_reply(endpoints: str | None, attempt_secs: int, changes: Changes | None) -> bytes:
    response = _routed(endpoints, attempt_secs, changes)
    if changes is not None and changes.body is not None:
        response.body_mutation.body = changes.body
    return _with_metadata(ProcessingResponse(request_body=BodyResponse(response=response)), endpoints, changes)


# Remembered without changes only: those hold what requests say, and hardly ever repeat.
@functools.lru_cache(maxsize=4096)
def _routed_headers(endpoints: str | None, attempt_secs: int, *, skip_body: bool) -> bytes:
    return _headers_reply(endpoints, attempt_secs, None, skip_body=skip_body)


@functools.lru_cache(maxsize=4096)
def _routed_body(endpoints: str | None, attempt_secs: int) -> bytes:
    return _body_reply(endpoints, attempt_secs, None)


def _routed(endpoints: str | None, attempt_secs: int, changes: Changes | None) -> CommonResponse:
    mutation = HeaderMutation()
    if endpoints is None:
        # A client that could name its own endpoint would choose the upstream; without one of ours, its header goes.
        mutation.remove_headers.append(DESTINATION)
    else:
        mutation.set_headers.append(_header(DESTINATION, endpoints))
    if attempt_secs:
        mutation.set_headers.append(_header(ATTEMPT_TIMEOUT, str(attempt_secs * 1000)))
    if changes is not None:
        mutation.set_headers.extend([_header(name, value) for name, value in changes.headers])
        if changes.body is not None:
            # Envoy refuses a buffered body of another length than the header says, and in the other modes it takes the
            # header only with `allow_content_length_header`; without, the body goes in chunks.
            mutation.set_headers.append(_header("content-length", str(len(changes.body))))
    return CommonResponse(header_mutation=mutation)


def _header(name: str, value: str) -> HeaderValueOption:
    return HeaderValueOption(header=HeaderValue(key=name, raw_value=value.encode()), append_action=_OVERWRITE)


def _with_metadata(reply: ProcessingResponse, endpoints: str | None, changes: Changes | None) -> bytes:
    metadata: dict[str, dict[str, str]] = {}
    if endpoints is not None:
        metadata[DESTINATION_NAMESPACE] = {DESTINATION: endpoints}
    if changes is not None and changes.metadata:
        metadata[HOOKS_NAMESPACE] = dict(changes.metadata)
    if metadata:
        reply.dynamic_metadata.update(metadata)
    return reply.SerializeToString()
