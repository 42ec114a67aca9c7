import os
import stat
from pathlib import Path

import pytest

from extproc.errors import StartupError
from extproc.supervisor.run_directory import RunDirectory


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_makes_the_directory_and_writes_the_pid(tmp_path: Path) -> None:
    path = tmp_path / "some" / "where"
    with RunDirectory(path) as directory:
        assert mode(path) == 0o755
        assert directory.metrics.is_dir()
        assert (path / "supervisor.pid").read_text() == f"{os.getpid()}\n"
    assert not (path / "supervisor.pid").exists()


def test_empties_the_metric_files_of_the_last_run_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "counter_3.db").write_bytes(b"old")
    (tmp_path / "metrics" / "notes").write_bytes(b"mine")
    with RunDirectory(tmp_path) as directory:
        assert [file.name for file in directory.metrics.iterdir()] == ["notes"]


def test_holds_it_against_a_second_service_and_names_the_first(tmp_path: Path) -> None:
    with RunDirectory(tmp_path) as directory:
        (directory.metrics / "counter_3.db").write_bytes(b"live")
        with pytest.raises(StartupError, match=rf"in use by another service \(pid {os.getpid()}\)"):
            RunDirectory(tmp_path).__enter__()
        assert (directory.metrics / "counter_3.db").exists()
    with RunDirectory(tmp_path):
        pass


def test_a_holder_without_a_pid_file_is_unknown(tmp_path: Path) -> None:
    with RunDirectory(tmp_path):
        (tmp_path / "supervisor.pid").unlink()
        with pytest.raises(StartupError, match=r"\(pid unknown\)"):
            RunDirectory(tmp_path).__enter__()


def test_takes_the_write_permission_of_others_away(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with RunDirectory(tmp_path):
        assert mode(tmp_path) == 0o755


def test_leaves_a_stricter_mode_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with RunDirectory(tmp_path):
        assert mode(tmp_path) == 0o700


def test_refuses_a_directory_of_someone_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process claims to be another user: only root could give a directory away."""
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(StartupError, match="belongs to user"):
        RunDirectory(tmp_path).__enter__()


@pytest.mark.parametrize("kind", ["link", "file", "below a file"])
def test_refuses_what_is_no_directory_of_its_own(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "run"
    if kind == "link":
        (tmp_path / "elsewhere").mkdir()
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.write_text("a file")
    with pytest.raises(StartupError, match=r"supervisor\.run_dir"):
        RunDirectory(path / "deeper" if kind == "below a file" else path).__enter__()


@pytest.mark.parametrize("name", ["metrics", "supervisor.pid"])
def test_says_what_is_in_the_way_and_lets_the_lock_go(tmp_path: Path, name: str) -> None:
    in_the_way = tmp_path / name
    if name == "metrics":
        in_the_way.write_text("a file")
    else:
        in_the_way.mkdir()
    with pytest.raises(StartupError, match="cannot use"):
        RunDirectory(tmp_path).__enter__()
    in_the_way.rmdir() if in_the_way.is_dir() else in_the_way.unlink()
    with RunDirectory(tmp_path):
        pass


def test_the_lock_file_is_never_followed_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "supervisor.lock").symlink_to(tmp_path / "target")
    with pytest.raises(StartupError, match="cannot use"):
        RunDirectory(tmp_path).__enter__()
    assert not (tmp_path / "target").exists()
