import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.fleet.worker import WorkerKey
from extproc.kvevents.sources import EventSource
from extproc.kvevents.stream import Position
from extproc.observer import snapshot
from extproc.observer.snapshot import KnownBlocks, KnownWorker, Packed, Snapshot, pack, unpack, unpack_all

HASHES = np.arange(5, dtype=np.uint64)
BLOCKS = KnownBlocks(
    EventSource("tcp://*:5557", "tcp://*:5558", "kv@", 0), "m", Position(7, 99), {"numbers": pack(HASHES)}
)
WORKER = KnownWorker(
    key=WorkerKey("w", "10.0.0.1:8000", 1, 2),
    blocks=BLOCKS, claims=pack(HASHES), ages=pack(HASHES / 2), engine={"seats": 8.0},
    outcome={"lone_secs": 0.5},
)  # fmt: skip


def written(directory: Path, *, age_secs: float = 0.0) -> Path:
    path = directory / "snapshot"
    snapshot.write(path, Snapshot(time.time() - age_secs, [WORKER]))
    return path


def test_what_is_written_is_read_and_nobody_else_may_read_it(tmp_path: Path) -> None:
    path = written(tmp_path)
    found = snapshot.read(path, max_age_secs=60)
    assert found is not None
    assert found.workers == [WORKER]
    (worker,) = found.workers
    assert worker.blocks is not None
    assert unpack_all(worker.blocks.arrays)["numbers"].tolist() == HASHES.tolist()
    assert path.stat().st_mode & 0o077 == 0
    assert list(tmp_path.iterdir()) == [path]


def test_none_is_no_fault(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert snapshot.read(tmp_path / "none", max_age_secs=60) is None
    assert not caplog.records


@pytest.mark.parametrize("age_secs", [61.0, -61.0])
def test_one_that_is_too_old_or_of_the_future_is_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, age_secs: float
) -> None:
    assert snapshot.read(written(tmp_path, age_secs=age_secs), max_age_secs=60) is None
    assert "s old" in caplog.text


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_one_that_is_torn_or_damaged_anywhere_is_ignored(data: st.DataObject) -> None:
    directory = Path(os.environ.get("TMPDIR", "/tmp")) / f"snapshot-{os.getpid()}"
    directory.mkdir(exist_ok=True)
    path = written(directory)
    try:
        content = path.read_bytes()
        at = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            path.write_bytes(content[:at])
        else:
            flipped = content[at] ^ data.draw(st.integers(1, 255))
            path.write_bytes(content[:at] + bytes([flipped]) + content[at + 1 :])
        assert snapshot.read(path, max_age_secs=60) is None
    finally:
        path.unlink()
        directory.rmdir()


def test_a_directory_that_is_gone_leaves_an_error_and_the_file_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        snapshot.write(tmp_path / "gone" / "snapshot", Snapshot(0.0, []))


@pytest.mark.parametrize(("kind", "data"), [("O", b""), ("nothing", b""), ("<u8", b"123"), ("V0", b"")])
def test_what_is_no_array_of_numbers_is_refused(kind: str, data: bytes) -> None:
    with pytest.raises(ValueError, match=r"array|buffer"):
        unpack(Packed(kind, data))
