"""The whole configuration of a standalone Envoy, made from the settings."""

from typing import TYPE_CHECKING, cast

import yaml
from envoy_data_plane.envoy.config.bootstrap.v3 import Admin, Bootstrap, BootstrapStaticResources
from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.core.v3 import Node
from envoy_data_plane.envoy.config.overload.v3 import OverloadManager, ResourceMonitor
from envoy_data_plane.envoy.extensions.resource_monitors.downstream_connections.v3 import DownstreamConnectionsConfig
from envoy_data_plane.google.protobuf import Any

from extproc.config.endpoints import eds_file, router_addresses
from extproc.config.settings import Settings
from extproc.dataplane.addresses import listen_address
from extproc.dataplane.listener import client_listener
from extproc.dataplane.router_cluster import router_cluster
from extproc.dataplane.worker_clusters import original_dst_clusters, override_host_cluster

if TYPE_CHECKING:
    from betterproto2 import Casing

MAX_CLIENT_CONNECTIONS = 50_000


def build_bootstrap(settings: Settings) -> Bootstrap:
    """Return Envoy's bootstrap.

    The endpoint file that it names must exist before Envoy starts (:mod:`extproc.dataplane.eds`). Raises
    :class:`~extproc.errors.ConfigurationError` for an address that Envoy cannot use.
    """
    return Bootstrap(
        # Without both names Envoy refuses a cluster whose endpoints come from a file.
        node=Node(id="llm-extproc", cluster="llm-extproc"),
        admin=Admin(
            address=listen_address(settings.envoy.admin_address, setting="envoy.admin_address"),
            ignore_global_conn_limit=True,
        ),
        static_resources=BootstrapStaticResources(
            listeners=[client_listener(settings)],
            clusters=[
                router_cluster(settings.server, router_addresses(settings)),
                *_worker_clusters(settings),
            ],
        ),
        overload_manager=OverloadManager(resource_monitors=[_connection_limit()]),
    )


def bootstrap_yaml(settings: Settings) -> str:
    """Return the bootstrap as block YAML, in Envoy's own field names; the same settings always give the same text."""
    # Both casings of betterproto2 misspell "enforcing_consecutive_5xx"; it calls whatever it is given.
    document = build_bootstrap(settings).to_dict(casing=cast("Casing", _declared_name))
    return yaml.safe_dump(document, sort_keys=False, default_flow_style=False, width=120)


def _declared_name(field: str) -> str:
    return field


def _worker_clusters(settings: Settings) -> list[Cluster]:
    if settings.routing.destination == "single":
        return original_dst_clusters(settings.envoy, eds_file(settings))
    return [override_host_cluster(settings.envoy, eds_file(settings))]


def _connection_limit() -> ResourceMonitor:
    limit = DownstreamConnectionsConfig(max_active_downstream_connections=MAX_CLIENT_CONNECTIONS)
    return ResourceMonitor(
        name="envoy.resource_monitors.global_downstream_max_connections", typed_config=Any.pack(limit)
    )
