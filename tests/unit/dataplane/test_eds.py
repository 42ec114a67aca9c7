import json
from pathlib import Path

import pytest
from betterproto2 import Casing
from envoy_data_plane.envoy.config.core.v3 import Address, HealthStatus, SocketAddress
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy_data_plane.envoy.service.discovery.v3 import DiscoveryResponse
from envoy_data_plane.google.protobuf import Any
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extproc.dataplane.eds import EndpointFile, endpoint_document
from extproc.fleet.worker import Worker
from tests.support.fleets import worker, workers

fleets = st.lists(
    st.builds(
        Worker,
        id=st.text(min_size=1, max_size=8),
        address=st.one_of(
            st.builds("{}:{}".format, st.ip_addresses(v=4), st.integers(1, 65535)),
            st.builds("[{}]:{}".format, st.ip_addresses(v=6), st.integers(1, 65535)),
        ),
        slot=st.integers(0, 100),
        state=st.sampled_from(["active", "draining"]),
        healthy=st.booleans(),
    ),
    max_size=5,
)


def typed_document(fleet: list[Worker], *, version: str) -> DiscoveryResponse:
    """The same document made of Envoy's own objects, by other means."""
    endpoints = []
    for one in sorted(fleet, key=lambda one: one.id):
        host, port = one.address.rsplit(":", 1)
        status = HealthStatus.DRAINING if one.state == "draining" else HealthStatus.UNKNOWN
        endpoints.append(
            LbEndpoint(
                endpoint=Endpoint(
                    address=Address(socket_address=SocketAddress(address=host.strip("[]"), port_value=int(port)))
                ),
                health_status=status if one.healthy else HealthStatus.UNHEALTHY,
            )
        )
    assignment = ClusterLoadAssignment(cluster_name="workers", endpoints=[LocalityLbEndpoints(lb_endpoints=endpoints)])
    return DiscoveryResponse(version_info=version, resources=[Any.pack(assignment)])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(fleets)
def test_the_document_is_what_envoys_own_objects_print(fleet: list[Worker]) -> None:
    document = json.loads(endpoint_document(fleet, cluster_name="workers"))
    typed = typed_document(fleet, version=document["version_info"])
    assert DiscoveryResponse.from_dict(document) == typed
    if fleet:  # an empty list is printed by us and left out by them
        assert document == typed.to_dict(casing=Casing.SNAKE)


def test_workers_that_get_nothing_new_are_listed_with_their_state() -> None:
    fleet = [worker(1), worker(2, healthy=False), worker(3, draining=True), worker(4, healthy=False, draining=True)]
    document = json.loads(endpoint_document(fleet, cluster_name="workers"))
    endpoints = document["resources"][0]["endpoints"][0]["lb_endpoints"]
    assert [endpoint.get("health_status") for endpoint in endpoints] == [None, "UNHEALTHY", "DRAINING", "UNHEALTHY"]


def test_the_order_of_the_workers_does_not_matter() -> None:
    fleet = workers(5)
    assert endpoint_document(fleet, cluster_name="w") == endpoint_document(fleet[::-1], cluster_name="w")


def test_the_same_content_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "eds.json"
    endpoints = EndpointFile(path=path)
    assert endpoints.write(workers(2))
    inode = path.stat().st_ino
    assert not endpoints.write(workers(2))
    assert not EndpointFile(path=path).write(workers(2)), "a new observer finds the former one's file"
    assert path.stat().st_ino == inode
    assert endpoints.write(workers(3))
    assert path.stat().st_ino != inode, "Envoy watches for another file being moved onto the name"


def test_a_file_that_somebody_else_changed_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "eds.json"
    endpoints = EndpointFile(path=path)
    endpoints.write(workers(2))
    path.write_text("{}")
    assert endpoints.write(workers(2))
    assert len(json.loads(path.read_text())["resources"][0]["endpoints"][0]["lb_endpoints"]) == 2


def test_nothing_is_left_beside_the_file(tmp_path: Path) -> None:
    EndpointFile(path=tmp_path / "eds.json").write(workers(2))
    assert [one.name for one in tmp_path.iterdir()] == ["eds.json"]


def test_a_failed_write_leaves_the_former_list(tmp_path: Path) -> None:
    path = tmp_path / "eds.json"
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        EndpointFile(path=path).write(workers(1))
    assert [one.name for one in tmp_path.iterdir()] == ["eds.json"]


def test_a_missing_directory_is_the_callers_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        EndpointFile(path=tmp_path / "none" / "eds.json").write(workers(1))
