import json
from pathlib import Path

import pytest

from extproc.config.document import MAX_FILE_BYTES
from extproc.config.fleet import WorkerSpec
from extproc.config.load import Lists
from extproc.errors import ConfigurationError
from extproc.fleet.discovery.endpoints_file import load_endpoints

WORKERS = [{"address": "10.0.0.1:80", "id": "a", "models": ["m"], "draining": True}, {"address": "[fd00::1]:80"}]


def faults_of(path: Path) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load_endpoints(path)
    return caught.value.faults


@pytest.mark.parametrize(
    ("name", "indent"),
    [
        ("endpoints.yaml", None),
        ("endpoints", 2),
        ("endpoints.json", None),
        ("endpoints.json", 2),
        ("endpoints.json", "\t"),
    ],
)
def test_reads_entries_like_those_of_the_configuration(name: str, indent: int | str | None, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(json.dumps({"workers": WORKERS}, indent=indent))
    assert load_endpoints(path) == Lists(
        workers=(
            WorkerSpec(address="10.0.0.1:80", id="a", models=("m",), draining=True),
            WorkerSpec(address="[fd00::1]:80"),
        )
    )


def test_reads_yaml(tmp_path: Path) -> None:
    path = tmp_path / "endpoints.yml"
    path.write_text("workers:\n  - address: 10.0.0.1:80  # the first\n")
    assert load_endpoints(path) == Lists(workers=(WorkerSpec(address="10.0.0.1:80"),))


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("", ["workers: is missing; write `workers: []` for none"]),
        ("workers:\n", ["workers: must be a list, not nothing"]),
        (
            "worker: []\nmodels: []\n",
            [
                "worker: unknown key - did you mean `workers`?",
                "models: unknown key",
                "workers: is missing; write `workers: []` for none",
            ],
        ),
        (
            "workers: [{address: 'a:1'}, {address: '10.0.0.1:80'}, {address: '10.0.0.1:80'}]",
            [
                "workers[0].address: must be `IP:PORT` with an IP address, not a name; is 'a:1'",
                "workers[2].address: is also that of workers[1]",
            ],
        ),
    ],
)
def test_every_fault_is_told_and_nothing_is_taken(text: str, faults: list[str], tmp_path: Path) -> None:
    path = tmp_path / "endpoints.yaml"
    path.write_text(text)
    assert faults_of(path) == faults


@pytest.mark.parametrize("name", ["endpoints.yaml", "endpoints.json"])
def test_a_file_over_the_limit_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text('{"workers": []}'.ljust(MAX_FILE_BYTES + 1))
    assert faults_of(path)[0] == f"{path}: larger than 1,048,576 bytes"


def test_a_missing_file_is_a_fault_with_its_name(tmp_path: Path) -> None:
    assert str(tmp_path / "missing") in faults_of(tmp_path / "missing")[0]
