from typing import Any

from betterproto2 import Message

from extproc.config.dataplane import EnvoySettings
from extproc.dataplane.worker_clusters import original_dst_clusters, override_host_cluster

DESTINATION = "x-gateway-destination-endpoint"


def printed(cluster: Message) -> dict[str, Any]:
    document: dict[str, Any] = cluster.to_dict()
    return document


def idle_timeout(cluster: dict[str, Any]) -> str:
    options = next(iter(cluster["typedExtensionProtocolOptions"].values()))
    return str(options["commonHttpProtocolOptions"]["idleTimeout"])


def test_the_decision_is_read_from_metadata_alone() -> None:
    cluster = printed(override_host_cluster(EnvoySettings(), "/run/eds.json"))
    policy = cluster["loadBalancingPolicy"]["policies"][0]["typedExtensionConfig"]["typedConfig"]
    assert policy["overrideHostSources"] == [{"metadata": {"key": "envoy.lb", "path": [{"key": DESTINATION}]}}]
    assert policy["selectedHostKey"] == {"key": "envoy.lb", "path": [{"key": f"{DESTINATION}-served"}]}


def test_idle_connections_are_closed_as_the_setting_says() -> None:
    envoy = EnvoySettings(upstream_idle_timeout_secs=2, connect_timeout_secs=0.5)
    clusters = [override_host_cluster(envoy, "/e"), *original_dst_clusters(envoy, "/e")]
    for cluster in map(printed, clusters):
        assert idle_timeout(cluster) == "2s", cluster["name"]
        assert cluster["connectTimeout"] == "0.500s", cluster["name"]


def test_a_single_destination_has_a_fall_back_with_the_same_endpoints() -> None:
    named, fallback = map(printed, original_dst_clusters(EnvoySettings(), "/run/eds.json"))
    assert named["originalDstLbConfig"] == {"useHttpHeader": True, "httpHeaderName": DESTINATION}
    assert fallback["edsClusterConfig"]["serviceName"] == "workers"
    assert fallback["edsClusterConfig"]["edsConfig"]["pathConfigSource"] == {"path": "/run/eds.json"}


def test_a_single_destination_that_fails_closed_needs_no_fall_back() -> None:
    assert [c.name for c in original_dst_clusters(EnvoySettings(fail_open=False), "/e")] == ["workers"]
