from typing import Any, Literal

import pytest

from extproc.config.server import ServerSettings
from extproc.dataplane.router_cluster import router_cluster

TCP = ["127.0.0.1:7000", "127.0.0.1:7001"]
UNIX = ["unix:/run/a.sock"]


def cluster(server: ServerSettings, addresses: list[str]) -> dict[str, Any]:
    document: dict[str, Any] = router_cluster(server, addresses).to_dict()
    return document


def test_every_router_is_an_endpoint_of_its_own() -> None:
    found = cluster(ServerSettings(), TCP)["loadAssignment"]["endpoints"][0]["lbEndpoints"]
    assert [one["endpoint"]["address"]["socketAddress"]["portValue"] for one in found] == [7000, 7001]


@pytest.mark.parametrize(
    ("tls", "addresses", "expected"),
    [("off", TCP, False), ("self_signed", TCP, True), ("files", TCP, True), ("self_signed", UNIX, False)],
)
def test_tls_is_spoken_where_the_router_speaks_it(
    tls: Literal["off", "self_signed", "files"], addresses: list[str], expected: bool
) -> None:
    assert ("transportSocket" in cluster(ServerSettings(tls=tls), addresses)) is expected


def test_health_changes_count_at_once_and_answers_never_eject() -> None:
    found = cluster(ServerSettings(), TCP)
    assert found["commonLbConfig"]["updateMergeWindow"] == "0s"
    assert found["outlierDetection"]["consecutiveLocalOriginFailure"] == 1
    assert found["outlierDetection"]["enforcingConsecutiveGatewayFailure"] == 0


def test_as_many_streams_as_a_router_allows() -> None:
    options = cluster(ServerSettings(max_streams_per_connection=77), TCP)["typedExtensionProtocolOptions"]
    http2 = next(iter(options.values()))["explicitHttpConfig"]["http2ProtocolOptions"]
    assert http2["maxConcurrentStreams"] == 77
