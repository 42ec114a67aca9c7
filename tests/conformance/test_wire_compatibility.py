"""Our trimmed protobuf definitions against Envoy's full ones.

The oracle is ``envoy-data-plane``: classes made from Envoy's own definitions by another code generator on another
protobuf runtime. Every message that we write must mean the same there and survive the way back; every message that it
writes must mean the same here, with fields that we do not know left out. Both sides are compared in protobuf's JSON
form. Health messages have no place in ``envoy-data-plane``; their oracle is ``grpclib``'s copy of the gRPC definitions.
"""

import math
from typing import Any

import pytest
from betterproto2 import Casing
from envoy_data_plane.envoy.config.core.v3 import HeaderMap, HeaderValue, Metadata
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import ProcessingModeBodySendMode
from envoy_data_plane.envoy.service.ext_proc import v3 as envoy
from envoy_data_plane.envoy.type.v3 import StatusCode
from envoy_data_plane.google.protobuf import Struct
from google.protobuf import json_format, struct_pb2
from google.protobuf.message import Message
from grpclib.health.v1 import health_pb2 as grpc_health
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extproc.pb import ext_proc_pb2 as pb
from extproc.pb import health_pb2

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
blobs = st.binary(max_size=40)
numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
documents = st.dictionaries(texts, values, max_size=3)


def struct(document: dict[str, Any]) -> struct_pb2.Struct:
    return json_format.ParseDict(document, struct_pb2.Struct())


def ours_in_json(message: Message) -> Any:  # noqa: ANN401 - protobuf's JSON form
    """Our message as data; a status code gets its name, because ours is a number and Envoy's an enum."""
    document = json_format.MessageToDict(message, preserving_proto_field_name=True)
    status = document.get("immediate_response", {}).get("status", {})
    if "code" in status:
        status["code"] = StatusCode(status["code"]).name
    return document


def theirs_in_json(message: envoy.ProcessingRequest | envoy.ProcessingResponse) -> Any:  # noqa: ANN401 - as above
    return message.to_dict(casing=Casing.SNAKE)


header_values = st.builds(pb.HeaderValue, key=texts, value=texts, raw_value=blobs)
header_maps = st.builds(pb.HeaderMap, headers=st.lists(header_values, max_size=3))
header_options = st.builds(
    pb.HeaderValueOption,
    header=header_values,
    append_action=st.sampled_from(pb.HeaderValueOption.HeaderAppendAction.values()),
)
header_mutations = st.builds(
    pb.HeaderMutation, set_headers=st.lists(header_options, max_size=3), remove_headers=st.lists(texts, max_size=3)
)
body_mutations = st.builds(
    pb.BodyMutation, streamed_response=st.builds(pb.StreamedBodyResponse, body=blobs, end_of_stream=st.booleans())
)
commons = st.builds(
    pb.CommonResponse,
    header_mutation=st.none() | header_mutations,
    body_mutation=st.none() | body_mutations,
)
headers_responses = st.builds(pb.HeadersResponse, response=st.none() | commons)
body_responses = st.builds(pb.BodyResponse, response=st.none() | commons)
trailers_responses = st.builds(pb.TrailersResponse, header_mutation=st.none() | header_mutations)
immediate_responses = st.builds(
    pb.ImmediateResponse,
    status=st.builds(pb.HttpStatus, code=st.sampled_from([200, 400, 404, 413, 429, 500, 503])),
    headers=st.none() | header_mutations,
    body=blobs,
    details=texts,
)
BODY_MODES = dict(pb.BodySendMode.items())
body_modes = st.sampled_from(pb.BodySendMode.values())
RESPONSES: dict[str, st.SearchStrategy[Message]] = {
    "request_headers": headers_responses,
    "response_headers": headers_responses,
    "request_body": body_responses,
    "response_body": body_responses,
    "request_trailers": trailers_responses,
    "response_trailers": trailers_responses,
    "immediate_response": immediate_responses,
}
beside_the_response = st.fixed_dictionaries(
    {},
    optional={
        "dynamic_metadata": st.builds(struct, documents),
        "mode_override": st.builds(pb.ProcessingMode, request_body_mode=body_modes, response_body_mode=body_modes),
    },
)


@pytest.mark.parametrize("kind", RESPONSES)
@unhurried
@given(data=st.data())
def test_envoy_reads_what_we_write(kind: str, data: st.DataObject) -> None:
    fields: dict[str, Any] = {kind: data.draw(RESPONSES[kind]), **data.draw(beside_the_response)}
    written = pb.ProcessingResponse(**fields)
    read = envoy.ProcessingResponse.parse(written.SerializeToString())
    assert theirs_in_json(read) == ours_in_json(written)
    assert pb.ProcessingResponse.FromString(bytes(read)) == written


def their_headers() -> st.SearchStrategy[HeaderMap]:
    return st.builds(HeaderMap, headers=st.lists(st.builds(HeaderValue, key=texts, value=texts, raw_value=blobs)))


def their_struct(document: dict[str, Any]) -> Struct:
    return Struct.parse(struct(document).SerializeToString())


their_modes = st.sampled_from([mode for mode in ProcessingModeBodySendMode if mode.name in BODY_MODES])
their_attributes = st.dictionaries(texts, st.builds(their_struct, documents), min_size=1, max_size=2)
their_bodies = st.builds(envoy.HttpBody, body=blobs, end_of_stream=st.booleans())
their_trailers = st.builds(envoy.HttpTrailers, trailers=st.none() | their_headers())
their_header_messages = st.builds(envoy.HttpHeaders, headers=st.none() | their_headers(), end_of_stream=st.booleans())
REQUESTS: dict[str, st.SearchStrategy[Any]] = {
    "request_headers": their_header_messages,
    "response_headers": their_header_messages,
    "request_body": their_bodies,
    "response_body": their_bodies,
    "request_trailers": their_trailers,
    "response_trailers": their_trailers,
}
beside_the_request = st.fixed_dictionaries(
    {},
    optional={
        "metadata_context": st.builds(
            Metadata, filter_metadata=st.dictionaries(texts, st.builds(their_struct, documents), max_size=3)
        ),
        "observability_mode": st.booleans(),
        "protocol_config": st.builds(
            envoy.ProtocolConfiguration,
            request_body_mode=their_modes,
            response_body_mode=their_modes,
            send_body_without_waiting_for_header_response=st.booleans(),
        ),
    },
)


@pytest.mark.parametrize("kind", REQUESTS)
@unhurried
@given(data=st.data())
def test_we_read_what_envoy_writes(kind: str, data: st.DataObject) -> None:
    fields: dict[str, Any] = {kind: data.draw(REQUESTS[kind]), **data.draw(beside_the_request)}
    written = envoy.ProcessingRequest(**fields)
    read = pb.ProcessingRequest.FromString(bytes(written))
    assert ours_in_json(read) == theirs_in_json(written)
    assert envoy.ProcessingRequest.parse(read.SerializeToString()) == written


@pytest.mark.filterwarnings("ignore:HttpHeaders.attributes is deprecated:DeprecationWarning")
@pytest.mark.parametrize("kind", ["request_headers", "response_headers"])
@unhurried
@given(data=st.data())
def test_fields_we_do_not_know_change_nothing(kind: str, data: st.DataObject) -> None:
    headers = data.draw(their_header_messages)
    fields: dict[str, Any] = {kind: headers, **data.draw(beside_the_request)}
    expected = theirs_in_json(envoy.ProcessingRequest(**fields))
    headers.attributes = data.draw(their_attributes)
    written = envoy.ProcessingRequest(**fields, attributes=data.draw(their_attributes))
    read = pb.ProcessingRequest.FromString(bytes(written))
    assert ours_in_json(read) == expected
    assert read.WhichOneof("request") == kind


@unhurried
@given(body=blobs, kind=st.sampled_from(["request_body", "response_body"]))
def test_newer_fields_of_a_body_change_nothing(body: bytes, kind: str) -> None:
    plain: dict[str, Any] = {kind: envoy.HttpBody(body=body)}
    newer: dict[str, Any] = {
        kind: envoy.HttpBody(body=body, end_of_stream_without_message=True, grpc_message_compressed=True)
    }
    read = pb.ProcessingRequest.FromString(bytes(envoy.ProcessingRequest(**newer)))
    assert ours_in_json(read) == theirs_in_json(envoy.ProcessingRequest(**plain))


@pytest.mark.parametrize("number", [0.0, -0.5, 8000.0, 1e300, math.pi])
def test_metadata_numbers_keep_their_value(number: float) -> None:
    written = pb.ProcessingResponse(dynamic_metadata=struct({"envoy.lb": {"score": number}}))
    read = envoy.ProcessingResponse.parse(written.SerializeToString())
    assert theirs_in_json(read)["dynamic_metadata"]["envoy.lb"]["score"] == number


@unhurried
@given(service=texts)
def test_a_health_request_is_grpcs_own(service: str) -> None:
    ours = health_pb2.HealthCheckRequest(service=service)
    theirs = grpc_health.HealthCheckRequest(service=service)
    assert ours.SerializeToString() == theirs.SerializeToString()
    assert health_pb2.HealthCheckRequest.FromString(theirs.SerializeToString()) == ours


def test_the_health_states_are_grpcs_own() -> None:
    theirs = grpc_health.HealthCheckResponse
    assert dict(health_pb2.HealthCheckResponse.ServingStatus.items()) == {
        name: int(number) for name, number in theirs.ServingStatus.items()
    }
    for name, state in health_pb2.HealthCheckResponse.ServingStatus.items():
        ours = health_pb2.HealthCheckResponse(status=state)
        assert theirs.FromString(ours.SerializeToString()).status == theirs.ServingStatus.Value(name)
        assert ours.SerializeToString() == theirs(status=theirs.ServingStatus.Value(name)).SerializeToString()


def test_a_body_send_mode_of_ours_is_envoys_of_the_same_number() -> None:
    known = {mode.name: mode.value for mode in ProcessingModeBodySendMode}
    assert BODY_MODES.items() <= known.items()
