from typing import Any

from betterproto2 import Message

from extproc.config.dataplane import EnvoySettings
from extproc.dataplane.worker_clusters import original_dst_clusters, override_host_cluster

DESTINATION = "x-gateway-destination-endpoint"


def printed(cluster: Message) -> dict[str, Any]:
    document: dict[str, Any] = cluster.to_dict()
    return document


def every_cluster(envoy: EnvoySettings) -> list[dict[str, Any]]:
    return [printed(one) for one in (override_host_cluster(envoy, "/e"), *original_dst_clusters(envoy, "/e"))]


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
    for cluster in every_cluster(envoy):
        assert idle_timeout(cluster) == "2s", cluster["name"]
        assert cluster["connectTimeout"] == "0.500s", cluster["name"]


def test_a_lost_machine_is_found_while_waiting_and_while_sending() -> None:
    for cluster in every_cluster(EnvoySettings(lost_after_secs=30)):
        keepalive = cluster["upstreamConnectionOptions"]["tcpKeepalive"]
        assert keepalive == {"keepaliveTime": 15, "keepaliveInterval": 5, "keepaliveProbes": 3}, cluster["name"]
        (option,) = cluster["upstreamBindConfig"]["socketOptions"]
        assert (option["level"], option["name"], option["intValue"]) == ("6", "18", "30000"), cluster["name"]


def test_a_short_time_is_rounded_up_to_what_kernels_count() -> None:
    cluster = every_cluster(EnvoySettings(lost_after_secs=0.0001))[0]
    keepalive = cluster["upstreamConnectionOptions"]["tcpKeepalive"]
    assert keepalive == {"keepaliveTime": 1, "keepaliveInterval": 1, "keepaliveProbes": 3}
    assert cluster["upstreamBindConfig"]["socketOptions"][0]["intValue"] == "1"


def test_a_lost_machine_may_be_left_to_the_kernel() -> None:
    for cluster in every_cluster(EnvoySettings(lost_after_secs=0)):
        assert not cluster.keys() & {"upstreamConnectionOptions", "upstreamBindConfig"}, cluster["name"]


def test_a_single_destination_has_a_fall_back_with_the_same_endpoints() -> None:
    named, fallback = map(printed, original_dst_clusters(EnvoySettings(), "/run/eds.json"))
    assert named["originalDstLbConfig"] == {"useHttpHeader": True, "httpHeaderName": DESTINATION}
    assert fallback["edsClusterConfig"]["serviceName"] == "workers"
    assert fallback["edsClusterConfig"]["edsConfig"]["pathConfigSource"] == {"path": "/run/eds.json"}


def test_a_single_destination_that_fails_closed_needs_no_fall_back() -> None:
    assert [c.name for c in original_dst_clusters(EnvoySettings(fail_open=False), "/e")] == ["workers"]
