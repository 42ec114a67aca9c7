"""The cluster ``extproc``: our router processes, each an endpoint of its own.

Envoy keeps one connection per worker thread and endpoint, so a shared port would leave most routers idle. A router that
dies or drains must cost nobody a request; four mechanisms share that work. A new stream that a dead router refuses is
retried on another (the filter's retry policy). One failed connection takes the router out for a moment (outlier
detection). A router that says NOT_SERVING gets no new streams, while it goes on with those it has (health check). A
router that hangs is found by the health check's own time-out and by pings.
"""

from collections.abc import Sequence

from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    Cluster,
    ClusterCommonLbConfig,
    ClusterDiscoveryType,
    ClusterLbPolicy,
    OutlierDetection,
)
from envoy_data_plane.envoy.config.core.v3 import (
    HealthCheck,
    HealthCheckGrpcHealthCheck,
    Http2ProtocolOptions,
    KeepaliveSettings,
    TransportSocket,
)
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import CommonTlsContext, UpstreamTlsContext
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
)
from envoy_data_plane.envoy.type.v3 import Percent
from envoy_data_plane.google.protobuf import Any

from extproc.config.endpoints import UNIX
from extproc.config.server import ServerSettings
from extproc.dataplane.addresses import dial_address
from extproc.dataplane.extensions import HTTP_PROTOCOL_OPTIONS, seconds

ROUTER_CLUSTER = "extproc"
EXT_PROC_SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"

UNLIMITED = 100_000
"""Circuit breakers are out of the way: limits are ours (``server.max_streams``), and a held stream is no overload."""

CONNECT_TIMEOUT_SECS = 0.25
HEALTH_INTERVAL_SECS = 1.0
HEALTH_TIMEOUT_SECS = 1.0
EJECTION_SECS = 1.0


def router_cluster(server: ServerSettings, addresses: Sequence[str]) -> Cluster:
    """Return the cluster of the routers at ``addresses`` (``unix:PATH`` or ``IP:PORT``)."""
    return Cluster(
        name=ROUTER_CLUSTER,
        type=ClusterDiscoveryType.STATIC,
        lb_policy=ClusterLbPolicy.LEAST_REQUEST,
        connect_timeout=seconds(CONNECT_TIMEOUT_SECS),
        load_assignment=ClusterLoadAssignment(
            cluster_name=ROUTER_CLUSTER,
            endpoints=[LocalityLbEndpoints(lb_endpoints=[_endpoint(address) for address in addresses])],
        ),
        typed_extension_protocol_options={HTTP_PROTOCOL_OPTIONS: Any.pack(_http2(server))},
        transport_socket=_tls() if server.tls != "off" and not addresses[0].startswith(UNIX) else None,
        health_checks=[_health_check()],
        outlier_detection=_outlier_detection(),
        common_lb_config=health_counts_at_once(),
        circuit_breakers=unlimited_circuit_breakers(),
    )


def unlimited_circuit_breakers() -> CircuitBreakers:
    """Return breakers that never trip; Envoy's own would refuse the 1025th request and the fourth concurrent retry."""
    return CircuitBreakers(
        thresholds=[
            CircuitBreakersThresholds(
                max_connections=UNLIMITED,
                max_pending_requests=UNLIMITED,
                max_requests=UNLIMITED,
                max_retries=UNLIMITED,
            )
        ]
    )


def health_counts_at_once() -> ClusterCommonLbConfig:
    """Return how a cluster heeds its endpoints' health: at once, and as long as one of them is healthy.

    Envoy gathers changes of health for a second before its threads see them: a router that dies within a second of
    another's recovery would go on getting everything. Below 50 % healthy Envoy ignores health; but half a fleet down is
    no reason to send requests to the dead half, while a whole fleet down leaves nothing to lose.
    """
    return ClusterCommonLbConfig(update_merge_window=seconds(0), healthy_panic_threshold=Percent(value=1.0))


def _endpoint(address: str) -> LbEndpoint:
    return LbEndpoint(endpoint=Endpoint(address=dial_address(address, setting="server.router_address")))


def _http2(server: ServerSettings) -> HttpProtocolOptions:
    return HttpProtocolOptions(
        explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(
            http2_protocol_options=Http2ProtocolOptions(
                max_concurrent_streams=server.max_streams_per_connection,
                connection_keepalive=KeepaliveSettings(interval=seconds(10), timeout=seconds(5)),
            )
        )
    )


def _tls() -> TransportSocket:
    """TLS without verification: the certificate may be self-signed, and the routers are on this machine."""
    context = UpstreamTlsContext(common_tls_context=CommonTlsContext(alpn_protocols=["h2"]))
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=Any.pack(context))


def _health_check() -> HealthCheck:
    """Ask our own health service. On a quiet cluster Envoy would do so once a minute."""
    interval = seconds(HEALTH_INTERVAL_SECS)
    return HealthCheck(
        timeout=seconds(HEALTH_TIMEOUT_SECS),
        interval=interval,
        no_traffic_interval=interval,
        no_traffic_healthy_interval=interval,
        unhealthy_threshold=2,
        healthy_threshold=1,
        grpc_health_check=HealthCheckGrpcHealthCheck(service_name=EXT_PROC_SERVICE),
    )


def _outlier_detection() -> OutlierDetection:
    """One failed connection or reset takes a router out for a second; answers of a router never do."""
    return OutlierDetection(
        split_external_local_origin_errors=True,
        consecutive_local_origin_failure=1,
        enforcing_consecutive_local_origin_failure=100,
        enforcing_consecutive_5xx=0,
        enforcing_consecutive_gateway_failure=0,
        enforcing_success_rate=0,
        enforcing_local_origin_success_rate=0,
        interval=seconds(0.25),
        base_ejection_time=seconds(EJECTION_SECS),
        max_ejection_time=seconds(EJECTION_SECS),
        max_ejection_percent=100,
    )
