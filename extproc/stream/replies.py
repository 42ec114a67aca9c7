"""Every ``ProcessingResponse`` this service writes, serialised.

Constant replies are made once; routed replies depend only on the endpoint list, of which there are few, so they are
remembered (bounded).
"""

import functools
import json
from typing import Literal

from extproc.errors import Refusal
from extproc.pb.ext_proc_pb2 import (
    NONE,
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
DESTINATION_NAMESPACE = "envoy.lb"
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


@functools.lru_cache(maxsize=4096)
def routed_headers(endpoints: str | None, *, skip_body: bool) -> bytes:
    """The reply to request headers that carries the destination.

    ``endpoints`` None leaves the request to the data plane's own balancing. ``skip_body`` asks a data plane that would
    send the body next (and allows a mode override) not to: nothing in it is needed.
    """
    reply = ProcessingResponse(request_headers=HeadersResponse(response=_destination(endpoints)))
    if skip_body:
        reply.mode_override.request_body_mode = NONE
        reply.mode_override.response_body_mode = NONE
    return _with_metadata(reply, endpoints)


@functools.lru_cache(maxsize=4096)
def routed_body(endpoints: str | None) -> bytes:
    """The reply to a buffered request body that carries the destination; None as above."""
    return _with_metadata(
        ProcessingResponse(request_body=BodyResponse(response=_destination(endpoints))),
        endpoints,
    )


@functools.lru_cache(maxsize=4096)
def routed_trailers(endpoints: str | None) -> bytes:
    """The reply to request trailers where the data plane sent no body before them; None as above."""
    return _with_metadata(ProcessingResponse(request_trailers=TrailersResponse()), endpoints)


def request_chunks(body: bytes, *, end_of_stream: bool) -> list[bytes]:
    """Full-duplex replies that pass one chunk of the request body on unchanged."""
    return _chunks("request_body", body, end_of_stream=end_of_stream)


def response_chunks(body: bytes, *, end_of_stream: bool) -> list[bytes]:
    """Full-duplex replies that pass one chunk of the response body on unchanged."""
    return _chunks("response_body", body, end_of_stream=end_of_stream)


def response_headers(decision: str) -> bytes:
    """The reply to response headers that shows the decision to the client."""
    reply = ProcessingResponse()
    reply.response_headers.response.header_mutation.set_headers.append(_header(DECISION_HEADER, decision))
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


def _destination(endpoints: str | None) -> CommonResponse:
    # A client that could name its own endpoint would choose the upstream; without one of ours, its header goes.
    if endpoints is None:
        return CommonResponse(header_mutation=HeaderMutation(remove_headers=[DESTINATION]))
    return CommonResponse(header_mutation=HeaderMutation(set_headers=[_header(DESTINATION, endpoints)]))


def _header(name: str, value: str) -> HeaderValueOption:
    return HeaderValueOption(header=HeaderValue(key=name, raw_value=value.encode()), append_action=_OVERWRITE)


def _with_metadata(reply: ProcessingResponse, endpoints: str | None) -> bytes:
    if endpoints is not None:
        reply.dynamic_metadata.update({DESTINATION_NAMESPACE: {DESTINATION: endpoints}})
    return reply.SerializeToString()
