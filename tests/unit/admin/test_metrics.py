import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from extproc.admin.metrics import MetricFiles, service_registry
from tests.support.fleets import ranks_of, worker
from tests.support.service_state import FakeState, process

WRITER = """
import sys
from extproc.telemetry.metrics import Metrics, use_process_slot
use_process_slot(int(sys.argv[1]))
metrics = Metrics()
metrics.requests.labels("routed").inc(int(sys.argv[2]))
metrics.decision_seconds.observe(0.00004)
metrics.decision_seconds.flush()
"""


def write_as_process(directory: Path, slot: int, requests: int) -> None:
    """Count ``requests`` in a process of its own, as a router does, and let it end."""
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(directory)}
    subprocess.run([sys.executable, "-c", WRITER, str(slot), str(requests)], env=environ, check=True)


def test_counters_of_all_processes_are_added_up_dead_ones_and_successors_included(tmp_path: Path) -> None:
    write_as_process(tmp_path, slot=0, requests=10)
    write_as_process(tmp_path, slot=1, requests=5)
    write_as_process(tmp_path, slot=0, requests=3)
    registry = CollectorRegistry()
    registry.register(MetricFiles(tmp_path))
    assert registry.get_sample_value("extproc_requests_total", {"outcome": "routed"}) == 18
    assert registry.get_sample_value("extproc_decision_seconds_count") == 3
    assert registry.get_sample_value("extproc_decision_seconds_bucket", {"le": "3e-05"}) == 0
    assert registry.get_sample_value("extproc_decision_seconds_bucket", {"le": "5e-05"}) == 3
    assert len(list(tmp_path.glob("counter_*.db"))) == 2


def test_a_file_that_was_created_but_not_yet_sized_spoils_nothing(tmp_path: Path) -> None:
    write_as_process(tmp_path, slot=0, requests=1)
    (tmp_path / "counter_7.db").touch()
    registry = CollectorRegistry()
    registry.register(MetricFiles(tmp_path))
    assert registry.get_sample_value("extproc_requests_total", {"outcome": "routed"}) == 1


def test_gauges_show_the_shared_memory_at_the_moment_of_the_scrape(tmp_path: Path) -> None:
    state = FakeState(fleet_generation=6, known=(worker(1, healthy=False, draining=True),), totals=[0, 8])
    registry = service_registry(state=state, metric_dir=tmp_path)
    labels = {"worker": "w1", "address": "10.0.0.1:8000"}
    assert registry.get_sample_value("extproc_worker_in_flight", labels) == 8
    assert registry.get_sample_value("extproc_worker_up", labels) == 0
    assert registry.get_sample_value("extproc_worker_state", {**labels, "state": "active"}) == 0
    assert registry.get_sample_value("extproc_worker_state", {**labels, "state": "draining"}) == 1
    assert registry.get_sample_value("extproc_fleet_generation") == 6
    state.known = ()
    assert registry.get_sample_value("extproc_worker_up", labels) is None


def test_two_workers_of_one_id_are_told_apart_by_their_address(tmp_path: Path) -> None:
    moved = worker(1), worker(2)
    renamed = tuple(type(one)(id="w", address=one.address, slot=one.slot) for one in moved)
    registry = service_registry(state=FakeState(known=renamed, totals=[0, 5, 6]), metric_dir=tmp_path)
    for one, count in zip(renamed, (5, 6), strict=True):
        labels = {"worker": "w", "address": one.address}
        assert registry.get_sample_value("extproc_worker_in_flight", labels) == count


@pytest.mark.parametrize("first", [0, 1])
def test_of_a_server_whose_number_of_ranks_changes_the_ranks_that_stay_are_shown(tmp_path: Path, first: int) -> None:
    leaving = [msgspec.structs.replace(one, state="draining") for one in ranks_of(1, 2, slot=0)]
    both = [leaving, ranks_of(1, 3, slot=2)]
    known = (*both[first], *both[1 - first])
    registry = service_registry(state=FakeState(known=known, totals=[7, 7, 1, 2, 3]), metric_dir=tmp_path)
    (family,) = [family for family in registry.collect() if family.name == "extproc_worker_in_flight"]
    assert [(sample.labels["worker"], sample.value) for sample in family.samples] == [
        ("w1/0", 1),
        ("w1/1", 2),
        ("w1/2", 3),
    ]


def test_a_process_and_its_successor_are_told_apart_and_streams_are_shown_for_routers_only(tmp_path: Path) -> None:
    rows = (process("router", 0), process("router", 0, slot=1, ready=False), process("observer", 0, slot=2))
    registry = service_registry(state=FakeState(process_rows=rows), metric_dir=tmp_path)
    router, starting, observer = ({"role": row.role, "index": str(row.index), "slot": str(row.slot)} for row in rows)
    assert registry.get_sample_value("extproc_process_up", router) == 1
    assert registry.get_sample_value("extproc_process_up", starting) == 0
    assert registry.get_sample_value("extproc_process_heartbeat_age_seconds", observer) == 0.5
    assert registry.get_sample_value("extproc_streams_active", router) == 2
    assert registry.get_sample_value("extproc_process_streams_total", router) == 200
    assert registry.get_sample_value("extproc_process_fleet_generation", router) == 4
    assert registry.get_sample_value("extproc_streams_active", observer) is None
