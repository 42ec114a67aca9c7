"""Builders of ``ProcessingRequest`` messages, as a data plane sends them, and readers of the replies."""

from collections.abc import Iterable, Mapping

from extproc.pb.ext_proc_pb2 import (
    BUFFERED,
    BUFFERED_PARTIAL,
    FULL_DUPLEX_STREAMED,
    NONE,
    STREAMED,
    HeaderMap,
    HeaderValue,
    HttpBody,
    HttpHeaders,
    HttpTrailers,
    ProcessingRequest,
    ProcessingResponse,
    ProtocolConfiguration,
)

DESTINATION = "x-gateway-destination-endpoint"

MODES: dict[str, ProtocolConfiguration | None] = {
    "none": ProtocolConfiguration(request_body_mode=NONE),
    "buffered": ProtocolConfiguration(request_body_mode=BUFFERED),
    "buffered_partial": ProtocolConfiguration(request_body_mode=BUFFERED_PARTIAL),
    "streamed": ProtocolConfiguration(request_body_mode=STREAMED),
    "pipelined": ProtocolConfiguration(request_body_mode=STREAMED, send_body_without_waiting_for_header_response=True),
    "full_duplex": ProtocolConfiguration(
        request_body_mode=FULL_DUPLEX_STREAMED, response_body_mode=FULL_DUPLEX_STREAMED
    ),
    "absent": None,
}


def header_map(headers: Mapping[str, str], *, raw: bool = True) -> HeaderMap:
    return HeaderMap(
        headers=[
            HeaderValue(key=key, raw_value=value.encode()) if raw else HeaderValue(key=key, value=value)
            for key, value in headers.items()
        ]
    )


def request_headers(
    mode: str = "buffered",
    *,
    method: str = "POST",
    path: str = "/v1/chat/completions",
    headers: Mapping[str, str] | None = None,
    end_of_stream: bool = False,
    raw: bool = True,
    subset: list[str] | str | None = None,
) -> ProcessingRequest:
    """The first message of an exchange."""
    pseudo = {":method": method, ":path": path, ":authority": "llm", ":scheme": "http"}
    message = ProcessingRequest(
        request_headers=HttpHeaders(
            headers=header_map(pseudo | dict(headers or {}), raw=raw), end_of_stream=end_of_stream
        ),
        protocol_config=MODES[mode],
    )
    if subset is not None:
        message.metadata_context.filter_metadata["envoy.lb.subset_hint"].update(
            {"x-gateway-destination-endpoint-subset": subset}
        )
    return message


def request_body(body: bytes = b"", *, end_of_stream: bool = True) -> ProcessingRequest:
    return ProcessingRequest(request_body=HttpBody(body=body, end_of_stream=end_of_stream))


def request_trailers() -> ProcessingRequest:
    return ProcessingRequest(request_trailers=HttpTrailers(trailers=header_map({"x-t": "1"})))


def response_headers(
    mode: str | None = None, *, end_of_stream: bool = False, headers: Mapping[str, str] | None = None
) -> ProcessingRequest:
    fields = {":status": "200"} | dict(headers or {})
    message = ProcessingRequest(response_headers=HttpHeaders(headers=header_map(fields), end_of_stream=end_of_stream))
    config = MODES[mode] if mode is not None else None
    if config is not None:
        message.protocol_config.CopyFrom(config)
    return message


def response_body(body: bytes = b"", *, end_of_stream: bool = True) -> ProcessingRequest:
    return ProcessingRequest(response_body=HttpBody(body=body, end_of_stream=end_of_stream))


def response_trailers() -> ProcessingRequest:
    return ProcessingRequest(response_trailers=HttpTrailers(trailers=header_map({"x-t": "1"})))


def parse(replies: Iterable[bytes]) -> list[ProcessingResponse]:
    return [ProcessingResponse.FromString(reply) for reply in replies]


def kinds(replies: Iterable[bytes]) -> list[str | None]:
    """Which phase each reply answers."""
    return [reply.WhichOneof("response") for reply in parse(replies)]


def header_destination(reply: ProcessingResponse) -> str | None:
    """The destination header a reply sets, or None."""
    kind = reply.WhichOneof("response")
    if kind not in {"request_headers", "request_body"}:
        return None
    mutation = getattr(reply, kind).response.header_mutation
    values = [option.header.raw_value.decode() for option in mutation.set_headers if option.header.key == DESTINATION]
    return values[0] if values else None


def metadata_destination(reply: ProcessingResponse) -> str | None:
    """The destination in a reply's dynamic metadata, or None."""
    namespaces = reply.dynamic_metadata.fields
    if "envoy.lb" not in namespaces:
        return None
    return namespaces["envoy.lb"].struct_value.fields[DESTINATION].string_value


def destinations(replies: Iterable[bytes]) -> list[str]:
    """Every destination in ``replies``, after checking that header and metadata agree."""
    found = []
    for reply in parse(replies):
        header, metadata = header_destination(reply), metadata_destination(reply)
        if reply.WhichOneof("response") != "request_trailers":
            assert header == metadata
        if metadata is not None:
            found.append(metadata)
    return found


def streamed(replies: Iterable[bytes], direction: str = "request") -> tuple[bytes, list[bool]]:
    """The body that full-duplex replies pass on, and the end-of-stream flag of each chunk."""
    body, flags = b"", []
    for reply in parse(replies):
        if reply.WhichOneof("response") == f"{direction}_body":
            chunk = getattr(reply, f"{direction}_body").response.body_mutation.streamed_response
            assert len(chunk.body) <= 62_000
            body += chunk.body
            flags.append(chunk.end_of_stream)
    return body, flags
