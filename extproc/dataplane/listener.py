"""The listener that takes the clients' requests, with the limits of Envoy's edge best practices."""

from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation as Mutation
from envoy_data_plane.envoy.config.core.v3 import (
    CidrRange,
    Http2ProtocolOptions,
    HttpProtocolOptions,
    HttpProtocolOptionsHeadersWithUnderscoresAction,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpConnectionManagerCodecType,
    HttpConnectionManagerInternalAddressConfig,
    HttpConnectionManagerPathWithEscapedSlashesAction,
)
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 import HeaderMutation
from envoy_data_plane.google.protobuf import Any

from extproc.config.settings import Settings
from extproc.dataplane.addresses import listen_address
from extproc.dataplane.extensions import DESTINATION, extension, seconds
from extproc.dataplane.filters import http_filters
from extproc.dataplane.routes import route_configuration

KIB = 1 << 10
MIB = 1 << 20

CONNECTION_BUFFER_BYTES = MIB
"""Bytes of an answer that wait for a slow client. Request bodies have a limit of their own on the route."""

CLIENT_IDLE_SECS = 3600.0
REQUEST_HEADERS_SECS = 10.0
REQUEST_SECS = 300.0
"""Time for a client to send its whole request, which Envoy holds in memory; the answer may take as long as it likes."""

MAX_REQUEST_HEADERS_KIB = 60
STREAMS_PER_CLIENT_CONNECTION = 1024
STREAM_WINDOW_BYTES = 64 * KIB
CONNECTION_WINDOW_BYTES = MIB


def client_listener(settings: Settings) -> Listener:
    """Return the listener."""
    manager = Any.pack(_connection_manager(settings))
    return Listener(
        name="clients",
        address=listen_address(settings.envoy.listen_address, setting="envoy.listen_address"),
        per_connection_buffer_limit_bytes=CONNECTION_BUFFER_BYTES,
        filter_chains=[
            FilterChain(filters=[Filter(name="envoy.filters.network.http_connection_manager", typed_config=manager)])
        ],
    )


def _connection_manager(settings: Settings) -> HttpConnectionManager:
    return HttpConnectionManager(
        stat_prefix="clients",
        codec_type=HttpConnectionManagerCodecType.AUTO,
        route_config=route_configuration(settings),
        http_filters=http_filters(settings),
        use_remote_address=True,
        internal_address_config=_nobody_is_internal(),
        early_header_mutation_extensions=[_strip_destination()],
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action=HttpConnectionManagerPathWithEscapedSlashesAction.UNESCAPE_AND_REDIRECT,
        common_http_protocol_options=HttpProtocolOptions(
            idle_timeout=seconds(CLIENT_IDLE_SECS),
            headers_with_underscores_action=HttpProtocolOptionsHeadersWithUnderscoresAction.REJECT_REQUEST,
        ),
        http2_protocol_options=Http2ProtocolOptions(
            max_concurrent_streams=STREAMS_PER_CLIENT_CONNECTION,
            initial_stream_window_size=STREAM_WINDOW_BYTES,
            initial_connection_window_size=CONNECTION_WINDOW_BYTES,
        ),
        max_request_headers_kb=MAX_REQUEST_HEADERS_KIB,
        request_timeout=seconds(REQUEST_SECS),
        request_headers_timeout=seconds(REQUEST_HEADERS_SECS),
        stream_idle_timeout=seconds(settings.envoy.stream_idle_timeout_secs),
    )


def _strip_destination() -> TypedExtensionConfig:
    """Remove the client's own destination header, before a route is chosen by it.

    Else a client would choose the worker, or any address at all with ``ORIGINAL_DST``, whenever no router is asked. The
    route's ``request_headers_to_remove`` would be wrong: it acts last and removes the router's value too.
    """
    return extension("envoy.http.early_header_mutation.header_mutation", HeaderMutation([Mutation(remove=DESTINATION)]))


def _nobody_is_internal() -> HttpConnectionManagerInternalAddressConfig:
    """Name an address that no client has as the only internal one.

    From an internal client, by default any private or loopback address, Envoy obeys ``x-envoy-*`` headers that change
    retries and time-outs; an empty list means that default.
    """
    return HttpConnectionManagerInternalAddressConfig(cidr_ranges=[CidrRange("255.255.255.255", 32)])
