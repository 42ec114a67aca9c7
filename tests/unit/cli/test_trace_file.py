"""A trace is there as a whole or not at all."""

from pathlib import Path

import pytest

from extproc.cli.trace_file import TraceFile
from extproc.errors import StartupError


def test_a_finished_trace_is_in_its_place_for_its_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    with TraceFile(path, max_bytes=None) as trace:
        assert trace.add({"a": 1})
        assert trace.add({"b": "é"})
        assert not path.exists()
        trace.finish()
    assert path.read_text(encoding="utf-8") == '{"a":1}\n{"b":"é"}\n'
    assert (trace.lines, trace.size) == (2, path.stat().st_size)
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_left_of_one_that_is_not_finished(tmp_path: Path) -> None:
    with TraceFile(tmp_path / "trace.jsonl", max_bytes=None) as trace:
        trace.add({"a": 1})
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_full_trace_takes_no_further_line(tmp_path: Path) -> None:
    with TraceFile(tmp_path / "trace.jsonl", max_bytes=17) as trace:
        assert [trace.add({"a": 1}) for _ in range(3)] == [True, True, False]
        trace.finish()
    assert trace.path.stat().st_size == trace.size == 16


def test_what_is_there_already_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text("mine")
    with pytest.raises(StartupError, match="exists already"):
        TraceFile(path, max_bytes=None).__enter__()
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "mine"


def test_a_place_that_cannot_be_written_to_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="cannot be written: No such file or directory"):
        TraceFile(tmp_path / "gone" / "trace.jsonl", max_bytes=None).__enter__()
