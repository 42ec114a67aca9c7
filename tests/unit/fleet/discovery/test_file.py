import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from extproc.config.fleet import WorkerSpec
from extproc.config.load import Lists
from extproc.config.models import ModelSpec
from extproc.errors import ConfigurationError
from extproc.fleet.discovery.file import ChangeDetector, FileSource, Reading
from extproc.telemetry.tasks import spawn
from tests.support.workers_http import until


def load(path: Path) -> Lists:
    """Read one worker's address a word, or a model's name in capitals; a word with a question mark is a fault."""
    lines = path.read_text().split()
    if faults := [f"workers[{index}]: what is {line}" for index, line in enumerate(lines) if "?" in line]:
        raise ConfigurationError(faults)
    return Lists(
        workers=tuple(WorkerSpec(address=line) for line in lines if not line.isupper()),
        models=tuple(ModelSpec(name=line) for line in lines if line.isupper()),
    )


class Watch:
    def __init__(self, path: Path) -> None:
        self.readings: list[Reading] = []
        self.lists: list[list[str]] = []
        self.source = FileSource(path=path, interval_secs=0.03, load=load, on_reading=self.readings.append)

    def take(self, lists: Lists) -> None:
        self.lists.append([worker.address for worker in lists.workers] + [model.name for model in lists.models])

    def count(self, result: Reading) -> int:
        return self.readings.count(result)


@asynccontextmanager
async def watching(path: Path) -> AsyncIterator[Watch]:
    watch = Watch(path)
    task = spawn(watch.source.watch(watch.take), name="watch")
    try:
        yield watch
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "workers"
    file.write_text("a:1 b:1")
    return file


def replace(path: Path, content: str) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(content)
    temporary.replace(path)


def overwrite(path: Path, content: str) -> None:
    path.write_text(content)


def remove(path: Path) -> None:
    path.unlink()


async def test_enumerates_everything_first(path: Path) -> None:
    async with watching(path) as watch:
        await until(lambda: watch.lists)
        assert watch.lists == [["a:1", "b:1"]]
        assert watch.count("ok") == 0


async def test_sees_an_atomic_replacement_of_the_same_size(path: Path) -> None:
    async with watching(path) as watch:
        await until(lambda: watch.lists)
        replace(path, "a:1 c:1")
        await until(lambda: len(watch.lists) == 2)
        assert watch.lists[1] == ["a:1", "c:1"]
        assert watch.count("ok") == 1


async def test_sees_a_write_in_place(path: Path) -> None:
    async with watching(path) as watch:
        await until(lambda: watch.lists)
        overwrite(path, "a:1")
        await until(lambda: len(watch.lists) == 2)
        assert watch.lists[1] == ["a:1"]


async def test_reports_workers_and_models_and_says_how_many(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with watching(path) as watch:
        await until(lambda: watch.lists)
        replace(path, "a:1 b:1 M")
        await until(lambda: len(watch.lists) == 2)
        assert watch.lists[1] == ["a:1", "b:1", "M"]
    assert f"Read {path} again: 2 workers, 1 models" in caplog.messages


@pytest.mark.parametrize(
    ("looks", "reads"),
    [
        ("aaaa", "    "),
        ("abbb", "  * "),
        ("abcdeee", "     * "),  # still being written: each look differs from the one before
        ("abab", "    "),
        ("abba", "  * "),
        ("abbaa", "  * *"),
        ("a--b", "  * "),  # gone, and written again
        ("a--bb", "  * *"),
    ],
)
def test_a_file_is_read_once_it_has_come_to_rest(looks: str, reads: str) -> None:
    prints = [None if look == "-" else (ord(look), 0, 0) for look in looks]
    changes = ChangeDetector(prints[0])
    seen = " " + "".join("*" if changes.settled(look) else " " for look in prints[1:])
    assert seen.rstrip() == reads.rstrip()


async def test_reports_nothing_while_nothing_changes(path: Path) -> None:
    async with watching(path) as watch:
        await until(lambda: watch.lists)
        await asyncio.sleep(0.15)
        assert len(watch.lists) == 1


async def test_an_invalid_file_changes_nothing_and_every_fault_is_logged_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with watching(path) as watch:
        await until(lambda: watch.lists)
        with caplog.at_level(logging.ERROR):
            replace(path, "a:1 ?x ?y")
            await until(lambda: watch.count("invalid") == 1)
            await asyncio.sleep(0.15)
        assert watch.lists == [["a:1", "b:1"]]
        assert [record.message.rpartition(": what")[2] for record in caplog.records] == [" is ?x", " is ?y"]
        replace(path, "d:1")
        await until(lambda: len(watch.lists) == 2)
        assert watch.lists[1] == ["d:1"]
        assert watch.count("invalid") == 1


async def test_a_file_that_vanishes_changes_nothing_until_it_is_back(path: Path) -> None:
    async with watching(path) as watch:
        await until(lambda: watch.lists)
        remove(path)
        await until(lambda: watch.count("invalid") == 1)
        overwrite(path, "z:1")
        await until(lambda: len(watch.lists) == 2)
        assert watch.lists[1] == ["z:1"]


async def test_starts_without_a_usable_file_and_takes_it_when_it_is_there(tmp_path: Path) -> None:
    async with watching(tmp_path / "later") as watch:
        await until(lambda: watch.count("invalid") == 1)
        (tmp_path / "later").write_text("a:1")
        await until(lambda: watch.lists)
        assert watch.lists == [["a:1"]]
