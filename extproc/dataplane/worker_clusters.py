"""The cluster ``workers``: the vLLM servers.

For ``routing.destination: list`` the balancer is ``override_host``: it walks the ordered list that the router chose,
one entry per attempt, and leaves the choice to least-request balancing when there is no list or it is used up. Its
endpoints come from the file that the observer writes.

For ``single`` it is an ``ORIGINAL_DST`` cluster that connects to whatever the header names, beside a second cluster,
``workers_fallback``, for requests that failed open and carry no header.
"""

import socket

from envoy_data_plane.envoy.config.cluster.v3 import (
    Cluster,
    ClusterDiscoveryType,
    ClusterEdsClusterConfig,
    ClusterLbPolicy,
    ClusterOriginalDstLbConfig,
    LoadBalancingPolicy,
    LoadBalancingPolicyPolicy,
    OutlierDetection,
    UpstreamConnectionOptions,
)
from envoy_data_plane.envoy.config.core.v3 import (
    ApiVersion,
    BindConfig,
    ConfigSource,
    Http1ProtocolOptions,
    PathConfigSource,
    SocketOption,
    SocketOptionSocketState,
    TcpKeepalive,
)
from envoy_data_plane.envoy.config.core.v3 import HttpProtocolOptions as ConnectionOptions
from envoy_data_plane.envoy.extensions.load_balancing_policies.least_request.v3 import LeastRequest
from envoy_data_plane.envoy.extensions.load_balancing_policies.override_host.v3 import (
    OverrideHost,
    OverrideHostOverrideHostSource,
)
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
)
from envoy_data_plane.envoy.type.metadata.v3 import MetadataKey, MetadataKeyPathSegment
from envoy_data_plane.google.protobuf import Any

from extproc.config.dataplane import EnvoySettings
from extproc.dataplane.eds import WORKER_CLUSTER
from extproc.dataplane.extensions import DESTINATION, HTTP_PROTOCOL_OPTIONS, LB_NAMESPACE, extension, seconds
from extproc.dataplane.router_cluster import health_counts_at_once, unlimited_circuit_breakers

FALLBACK_CLUSTER = "workers_fallback"
PROBES = 3
TCP_USER_TIMEOUT = 18
"""Linux's number for it, whatever system writes the configuration."""


def override_host_cluster(envoy: EnvoySettings, eds_file: str) -> Cluster:
    """Return the cluster that walks the router's ordered list.

    The list is read from the metadata, which no client can set, and from there only: Envoy joins several sources to one
    list and would try every worker twice before it balances by itself.
    """
    cluster = _eds_cluster(WORKER_CLUSTER, envoy, eds_file)
    policy = OverrideHost(
        override_host_sources=[OverrideHostOverrideHostSource(metadata=_metadata_key(DESTINATION))],
        selected_host_key=_metadata_key(f"{DESTINATION}-served"),
        fallback_policy=_least_request(),
    )
    cluster.load_balancing_policy = _policy("envoy.load_balancing_policies.override_host", policy)
    return cluster


def original_dst_clusters(envoy: EnvoySettings, eds_file: str) -> list[Cluster]:
    """Return the cluster that connects to what the header names and, for failing open, the one that balances itself."""
    named = Cluster(
        name=WORKER_CLUSTER,
        type=ClusterDiscoveryType.ORIGINAL_DST,
        lb_policy=ClusterLbPolicy.CLUSTER_PROVIDED,
        original_dst_lb_config=ClusterOriginalDstLbConfig(use_http_header=True, http_header_name=DESTINATION),
        connect_timeout=seconds(envoy.connect_timeout_secs),
        typed_extension_protocol_options={HTTP_PROTOCOL_OPTIONS: Any.pack(_http1(envoy))},
        circuit_breakers=unlimited_circuit_breakers(),
        upstream_connection_options=_keepalive(envoy.lost_after_secs),
        upstream_bind_config=_acknowledgement_limit(envoy.lost_after_secs),
    )
    if not envoy.fail_open:
        return [named]
    fallback = _eds_cluster(FALLBACK_CLUSTER, envoy, eds_file)
    fallback.load_balancing_policy = _least_request()
    return [named, fallback]


def _eds_cluster(name: str, envoy: EnvoySettings, eds_file: str) -> Cluster:
    return Cluster(
        name=name,
        type=ClusterDiscoveryType.EDS,
        eds_cluster_config=ClusterEdsClusterConfig(
            service_name=WORKER_CLUSTER if name != WORKER_CLUSTER else "",
            eds_config=ConfigSource(
                path_config_source=PathConfigSource(path=eds_file), resource_api_version=ApiVersion.V3
            ),
        ),
        connect_timeout=seconds(envoy.connect_timeout_secs),
        typed_extension_protocol_options={HTTP_PROTOCOL_OPTIONS: Any.pack(_http1(envoy))},
        outlier_detection=_outlier_detection(),
        common_lb_config=health_counts_at_once(),
        circuit_breakers=unlimited_circuit_breakers(),
        upstream_connection_options=_keepalive(envoy.lost_after_secs),
        upstream_bind_config=_acknowledgement_limit(envoy.lost_after_secs),
    )


def _http1(envoy: EnvoySettings) -> HttpProtocolOptions:
    """HTTP/1.1, with idle connections closed by us before the worker closes them under a request."""
    return HttpProtocolOptions(
        common_http_protocol_options=ConnectionOptions(idle_timeout=seconds(envoy.upstream_idle_timeout_secs)),
        explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(http_protocol_options=Http1ProtocolOptions()),
    )


def _keepalive(lost_after_secs: float) -> UpstreamConnectionOptions | None:
    """Find a lost machine while an answer is awaited: the kernel asks the other one whether it is still there.

    It asks :data:`PROBES` times, in the second half of the time. Envoy counts whole seconds.
    """
    if not lost_after_secs:
        return None
    return UpstreamConnectionOptions(
        tcp_keepalive=TcpKeepalive(
            keepalive_time=max(1, round(lost_after_secs / 2)),
            keepalive_interval=max(1, round(lost_after_secs / 2 / PROBES)),
            keepalive_probes=PROBES,
        )
    )


def _acknowledgement_limit(lost_after_secs: float) -> BindConfig | None:
    """Find a lost machine while something sent is not acknowledged, when there are no keep-alive probes."""
    if not lost_after_secs:
        return None
    option = SocketOption(
        description="TCP_USER_TIMEOUT",
        level=socket.IPPROTO_TCP,
        name=TCP_USER_TIMEOUT,
        int_value=max(1, round(lost_after_secs * 1000)),
        state=SocketOptionSocketState.STATE_PREBIND,
    )
    return BindConfig(socket_options=[option])


def _outlier_detection() -> OutlierDetection:
    """A connect failure, a reset or five 502 to 504 take a worker out of the fall-back; a 500 may be the request's own.

    At once and for a short time: this only bridges the time until the observer's next endpoint file. A list of a
    router is walked whatever this says.
    """
    return OutlierDetection(
        split_external_local_origin_errors=True,
        consecutive_local_origin_failure=1,
        enforcing_consecutive_local_origin_failure=100,
        consecutive_gateway_failure=5,
        enforcing_consecutive_gateway_failure=100,
        enforcing_consecutive_5xx=0,
        enforcing_success_rate=0,
        enforcing_local_origin_success_rate=0,
        interval=seconds(0.5),
        base_ejection_time=seconds(2),
        max_ejection_time=seconds(10),
        max_ejection_percent=100,
    )


def _metadata_key(name: str) -> MetadataKey:
    return MetadataKey(key=LB_NAMESPACE, path=[MetadataKeyPathSegment(key=name)])


def _least_request() -> LoadBalancingPolicy:
    return _policy("envoy.load_balancing_policies.least_request", LeastRequest())


def _policy(name: str, message: OverrideHost | LeastRequest) -> LoadBalancingPolicy:
    return LoadBalancingPolicy(policies=[LoadBalancingPolicyPolicy(typed_extension_config=extension(name, message))])
