"""``extproc record`` as a process, before an admin port without routers: what it says, leaves and returns."""

import asyncio
import json
import resource
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from prometheus_client import CollectorRegistry

from extproc.admin.app import AdminServer
from extproc.observer.recording import ObservedRecording
from extproc.observer.tokens import ObservedTokens
from extproc.recording.record import Closing
from extproc.shm.processes import ProcessTable, Role
from extproc.shm.segment import Segment
from tests.support.envoy import free_ports
from tests.support.readers import Reading
from tests.support.recordings import observed_recording, part, read_trace, recorded
from tests.support.segments import mapped
from tests.support.service_state import FakeState
from tests.support.waiting import until


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


class Ended(NamedTuple):
    code: int
    output: str
    error: str


class Command:
    """The command in a process of its own, writing to ``trace.jsonl`` of a directory."""

    def __init__(self, directory: Path) -> None:
        self.out = directory / "trace.jsonl"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, *flags: str, most: int | None = None) -> None:
        """Start it; it can write no file larger than ``most`` bytes."""

        def limit() -> None:
            if most is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "extproc", "record", "--out", str(self.out), *flags),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            preexec_fn=limit,
        )

    async def end(self, signum: signal.Signals | None = None) -> Ended:
        assert self._process is not None
        if signum is not None:
            self._process.send_signal(signum)
        output, error = await self._process.communicate()
        assert self._process.returncode is not None
        return Ended(self._process.returncode, output.decode(), error.decode())

    async def run(self, *flags: str) -> Ended:
        await self.start(*flags)
        return await self.end()


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


class Service(NamedTuple):
    address: str
    recording: ObservedRecording
    segment: Segment
    directory: Path

    async def number(self) -> str:
        """The recording that is under way, once one is."""

        async def begun() -> bool:
            return bool(self.recording.status().secs_left)

        await until(begun)
        number = self.recording.status().recording
        assert number is not None
        return number

    def write(self, name: str, data: bytes) -> None:
        """What a router writes."""
        (self.directory / name).write_bytes(data)

    def parts(self) -> list[str]:
        return names(self.directory)


@asynccontextmanager
async def service(directory: Path, *, allowed: bool = True) -> AsyncIterator[Service]:
    directory.mkdir()  # noqa: ASYNC240 - before anything runs
    segment = mapped()
    recording = observed_recording(str(directory) if allowed else "", segment=segment)
    server = AdminServer(
        address="127.0.0.1:0",
        state=FakeState(),
        registry=CollectorRegistry(),
        tokens=ObservedTokens(shelf=Reading().shelf, store=None, specs=tuple),
        recording=recording,
    )
    address = await server.start()
    try:
        yield Service(address, recording, segment, directory)
    finally:
        await server.close()


async def test_nobody_is_there(command: Command) -> None:
    (port,) = free_ports(1)
    ended = await command.run("--admin", f"127.0.0.1:{port}")
    assert ended.code == 3
    assert ended.error.startswith(f"Cannot start: no service answers at 127.0.0.1:{port} ")
    assert names(command.out.parent) == []


async def test_it_is_not_allowed(command: Command, tmp_path: Path) -> None:
    async with service(tmp_path / "parts", allowed=False) as running:
        ended = await command.run("--admin", running.address)
    assert (ended.code, "set `recording.directory` in its configuration" in ended.error) == (3, True)
    assert not command.out.exists()


async def test_the_directory_is_not_here(command: Command, tmp_path: Path) -> None:
    async with service(tmp_path / "parts") as running:
        running.directory.rmdir()
        ended = await command.run("--admin", running.address)
        assert (ended.code, "run this on its machine, as its user" in ended.error) == (3, True)
        assert not running.recording.status().secs_left
        running.directory.mkdir()


async def test_the_trace_exists_already(command: Command, tmp_path: Path) -> None:
    command.out.write_text("mine")
    async with service(tmp_path / "parts") as running:
        ended = await command.run("--admin", running.address)
        assert (ended.code, "exists already" in ended.error) == (3, True)
        assert not running.recording.status().secs_left
    assert command.out.read_text() == "mine"


@pytest.mark.parametrize(
    "flags",
    [("--secs", "0"), ("--secs", "90000"), ("--secs", "x"), ("--max-bytes", "9"), ("--admin", "h:1", "-c", "f")],
)
async def test_wrong_usage(command: Command, flags: tuple[str, ...]) -> None:
    ended = await command.run(*flags)
    assert (ended.code, "usage: extproc record" in ended.error) == (2, True)


async def test_no_request_came(command: Command, tmp_path: Path) -> None:
    async with service(tmp_path / "parts") as running:
        ended = await command.run("--admin", running.address, "--secs", "0.1")
        assert not running.recording.status().secs_left
    assert (ended.code, "No request was recorded" in ended.error) == (1, True)
    assert names(tmp_path) == ["parts"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
async def test_parts_become_a_trace_and_are_gone(command: Command, tmp_path: Path, signum: signal.Signals) -> None:
    async with service(tmp_path / "parts") as running:
        await command.start("--admin", running.address, "--secs", "600")
        number = await running.number()
        running.write(f"{number}-1-10.part", part(recorded(2.0), recorded(5.0), Closing(0)))
        running.write(f"{number}-2-11.part", part(recorded(3.0), Closing(4)))
        running.write(f"{1:016x}-2-11.part", part(recorded(1.0), Closing(0)))
        ended = await command.end(signum)
        assert running.parts() == [f"{1:016x}-2-11.part"]
        assert not running.recording.status().secs_left
    assert ended.code == 0
    assert [line["timestamp"] for line in read_trace(command.out)] == [0, 1000, 3000]
    assert f"trace.jsonl: 3 requests over 3.0 s, {command.out.stat().st_size:,} bytes." in ended.output
    assert "4 requests found no room and are left out" in ended.error


async def test_it_waits_until_every_router_has_written(command: Command, tmp_path: Path) -> None:
    async with service(tmp_path / "parts") as running:
        row = ProcessTable(running.segment).claim(role=Role.ROUTER, index=0, now_ns=1)
        assert row is not None
        await command.start("--admin", running.address, "--secs", "0.2")
        number = await running.number()
        row.begin_recording(int(number, 16))

        async def over() -> bool:
            return not running.recording.status().secs_left

        await until(over)
        running.write(f"{number}-0-10.part", part(recorded(), Closing(0)))
        row.end_recording()
        ended = await command.end()
    assert (ended.code, "warning" in ended.error) == (0, False)
    assert len(read_trace(command.out)) == 1


async def test_a_trace_that_is_full_is_cut_and_says_so(command: Command, tmp_path: Path) -> None:
    async with service(tmp_path / "parts") as running:
        await command.start("--admin", running.address, "--max-bytes", "10000")
        number = await running.number()
        running.write(f"{number}-1-10.part", part(*[recorded(float(one)) for one in range(100)], Closing(0)))
        ended = await command.end(signal.SIGINT)
    lines = read_trace(command.out)
    assert 20 < len(lines) < 100
    assert command.out.stat().st_size <= 10_000
    assert f"{100 - len(lines)} requests are left out, as the trace is full" in ended.error


async def test_a_trace_that_cannot_be_written_leaves_the_parts(command: Command, tmp_path: Path) -> None:
    async with service(tmp_path / "parts") as running:
        await command.start("--admin", running.address, most=1000)
        number = await running.number()
        running.write(f"{number}-1-10.part", part(*[recorded(float(one)) for one in range(100)], Closing(0)))
        ended = await command.end(signal.SIGINT)
        assert running.parts() == [f"{number}-1-10.part"]
        assert (ended.code, "Try again with --merge" in ended.error) == (3, True)
        assert names(tmp_path) == ["parts"]
        again = ended.error.rpartition("--merge ")[2].split()
        ended = await command.run("--merge", *again)
        assert (ended.code, running.parts()) == (0, [])
    assert len(read_trace(command.out)) == 100


@pytest.mark.parametrize("files", [(f"{1:016x}-1-1.part", f"{2:016x}-1-1.part"), ("my.part",)])
async def test_only_parts_of_one_recording_are_merged(command: Command, tmp_path: Path, files: tuple[str, ...]) -> None:
    async with service(tmp_path / "parts") as running:
        for file in files:
            running.write(file, part(recorded()))
        ended = await command.run("--merge", *[str(running.directory / file) for file in files])
        assert (ended.code, "not the parts" in ended.error, running.parts()) == (3, True, sorted(files))
    assert not command.out.exists()


async def test_a_service_that_stops_meanwhile_leaves_what_it_had_written(command: Command, tmp_path: Path) -> None:
    async with service(tmp_path / "parts") as running:
        await command.start("--admin", running.address, "--secs", "600")
        number = await running.number()
        running.write(f"{number}-1-10.part", part(recorded()))
    ended = await command.end(signal.SIGINT)
    assert ended.code == 0
    assert "the service has not said whether it has written everything" in ended.error
    assert "1 router(s) ended before they had written everything" in ended.error
    assert json.loads(command.out.read_text())["input_length"] == 100
