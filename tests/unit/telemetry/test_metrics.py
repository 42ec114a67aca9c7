"""Metrics of several processes, as the observer adds them up."""

import os
import subprocess
import sys
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

PROCESS = """
import sys
from extproc.telemetry.metrics import Metrics, use_process_slot
use_process_slot(int(sys.argv[1]))
metrics = Metrics()
metrics.requests.labels("routed").inc()
metrics.decision_seconds.observe(20e-6)
metrics.decision_seconds.flush()
"""


def run_process(slot: int, directory: Path) -> None:
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(directory)}
    subprocess.run([sys.executable, "-c", PROCESS, str(slot)], env=environment, check=True)


def total(directory: Path, name: str) -> float:
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(directory))  # type: ignore[no-untyped-call]
    return sum(sample.value for family in registry.collect() for sample in family.samples if sample.name == name)


def test_processes_are_added_up(tmp_path: Path) -> None:
    for slot in range(3):
        run_process(slot, tmp_path)
    assert total(tmp_path, "extproc_requests_total") == 3
    assert total(tmp_path, "extproc_decision_seconds_count") == 3


def test_a_successor_in_a_slot_goes_on_counting_in_the_same_files(tmp_path: Path) -> None:
    run_process(5, tmp_path)
    files = sorted(path.name for path in tmp_path.iterdir())
    run_process(5, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    assert total(tmp_path, "extproc_requests_total") == 2


def test_the_files_of_a_process_have_their_disk_space_from_the_start(tmp_path: Path) -> None:
    """They are mapped into memory, where a missing block is a SIGBUS."""
    run_process(5, tmp_path)
    files = list(tmp_path.iterdir())
    assert len(files) == 2
    assert all(file.stat().st_blocks * 512 >= file.stat().st_size for file in files)
