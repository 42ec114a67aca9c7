"""The HTTP filters, in order: ask a router, forward."""

from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutationRules
from envoy_data_plane.envoy.config.core.v3 import (
    BackoffStrategy,
    GrpcService,
    GrpcServiceEnvoyGrpc,
    RetryPolicy,
    RetryPolicyRetryHostPredicate,
)
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import (
    ExternalProcessor,
    ExternalProcessorRouteCacheAction,
    HeaderForwardingRules,
    MetadataOptions,
    MetadataOptionsMetadataNamespaces,
    ProcessingMode,
    ProcessingModeBodySendMode,
    ProcessingModeHeaderSendMode,
)
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.type.matcher.v3 import ListStringMatcher, RegexMatcher, StringMatcher
from envoy_data_plane.google.protobuf import Any

from extproc.config.dataplane import EnvoySettings
from extproc.config.settings import Settings
from extproc.dataplane.extensions import (
    ATTEMPT_TIMEOUT,
    HOOKS_NAMESPACE,
    HOST_SELECTION_ATTEMPTS,
    LB_NAMESPACE,
    PREVIOUS_HOSTS,
    SUBSET_NAMESPACE,
    previous_hosts,
    seconds,
)
from extproc.dataplane.router_cluster import ROUTER_CLUSTER

STREAM_RETRIES = 3
"""Routers tried after the first; a router takes part in a retry only before its first reply."""


def http_filters(settings: Settings) -> list[HttpFilter]:
    """Return the filter chain."""
    return [_ext_proc(settings), _forward()]


def _ext_proc(settings: Settings) -> HttpFilter:
    single = settings.routing.destination == "single"
    processor = ExternalProcessor(
        grpc_service=GrpcService(
            envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=ROUTER_CLUSTER, skip_envoy_headers=True),
            retry_policy=_stream_retries(),
        ),
        failure_mode_allow=settings.envoy.fail_open,
        processing_mode=_processing_mode(settings.envoy),
        allow_mode_override=True,
        message_timeout=seconds(settings.envoy.message_timeout_secs),
        metadata_options=MetadataOptions(
            forwarding_namespaces=MetadataOptionsMetadataNamespaces(untyped=[LB_NAMESPACE, SUBSET_NAMESPACE]),
            receiving_namespaces=MetadataOptionsMetadataNamespaces(untyped=[LB_NAMESPACE, HOOKS_NAMESPACE]),
        ),
        forward_rules=HeaderForwardingRules(allowed_headers=_forwarded(settings.envoy)),
        # Of the headers that steer Envoy, which a processor may not set by default, this one.
        mutation_rules=HeaderMutationRules(allow_expression=RegexMatcher(regex=ATTEMPT_TIMEOUT)),
        route_cache_action=(
            ExternalProcessorRouteCacheAction.CLEAR if single else ExternalProcessorRouteCacheAction.RETAIN
        ),
    )
    return HttpFilter(name="envoy.filters.http.ext_proc", typed_config=Any.pack(processor))


def _forwarded(envoy: EnvoySettings) -> ListStringMatcher:
    """Match the headers that a decision may look at, and what an answer is known by; ``name*`` is a prefix.

    One list holds for both directions: without ``:status`` in it the response phase would not tell the status.
    """
    patterns = [StringMatcher(exact=name) for name in (":method", ":path")]
    if envoy.response_headers:
        patterns += [StringMatcher(exact=name) for name in (":status", "content-type", "content-encoding")]
    for name in envoy.forwarded_headers:
        if name.endswith("*"):
            patterns.append(StringMatcher(prefix=name.removesuffix("*")))
        else:
            patterns.append(StringMatcher(exact=name))
    return ListStringMatcher(patterns=patterns)


def _processing_mode(envoy: EnvoySettings) -> ProcessingMode:
    """Headers and the whole body: Content-Length stays, and failing open works even when a router dies half-way.

    To ask for trailers, which no worker sends, has Envoy hold the stream until the answer ends; else a router that did
    not want the body would lose sight of its request at the first byte. Not when failing closed: there the death of a
    router breaks the answers whose streams it holds.
    """
    send, skip = ProcessingModeHeaderSendMode.SEND, ProcessingModeHeaderSendMode.SKIP
    return ProcessingMode(
        request_header_mode=send,
        request_body_mode=ProcessingModeBodySendMode.BUFFERED,
        request_trailer_mode=skip,
        response_header_mode=send if envoy.response_headers else skip,
        response_body_mode=ProcessingModeBodySendMode.NONE,
        response_trailer_mode=send if envoy.response_headers and envoy.fail_open else skip,
    )


def _stream_retries() -> RetryPolicy:
    """Open the stream on another router, soon: Envoy's own back-off would cost up to a second per dead router."""
    return RetryPolicy(
        retry_on="connect-failure,refused-stream,reset,unavailable",
        num_retries=STREAM_RETRIES,
        retry_back_off=BackoffStrategy(base_interval=seconds(0.005), max_interval=seconds(0.05)),
        retry_host_predicate=[RetryPolicyRetryHostPredicate(name=PREVIOUS_HOSTS, typed_config=previous_hosts())],
        host_selection_retry_max_attempts=HOST_SELECTION_ATTEMPTS,
    )


def _forward() -> HttpFilter:
    return HttpFilter(name="envoy.filters.http.router", typed_config=Any.pack(Router(suppress_envoy_headers=True)))
