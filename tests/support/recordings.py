"""The command ``extproc record`` beside a running service, and the traces it makes."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from extproc.config.recording import RecordingSettings
from extproc.observer.recording import ObservedRecording
from extproc.recording.record import Entry, Opening, Recorded, frame, frames
from extproc.shm.processes import ProcessTable
from extproc.shm.recording import Order, RecordingOrder
from extproc.shm.segment import Segment
from tests.support.segments import mapped
from tests.support.service import Service
from tests.support.waiting import until

MOONCAKE_FIELDS = ("timestamp", "input_length", "output_length", "hash_ids")

Line = dict[str, Any]


class Recording:
    """The command, while it records."""

    def __init__(self, process: asyncio.subprocess.Process, out: Path) -> None:
        self.out = out
        self.said = ""
        self._process = process

    async def end(self) -> int:
        """Press Ctrl-C and wait for its end; returns the exit code."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGINT)
        return await self.wait()

    async def wait(self) -> int:
        """Wait for its end; returns the exit code."""
        output, said = await self._process.communicate()
        self.said = (output + said).decode()
        assert self._process.returncode is not None
        return self._process.returncode

    def kill(self) -> None:
        """Let it die without another word."""
        self._process.kill()

    def trace(self) -> list[Line]:
        return read_trace(self.out)


def read_trace(path: Path) -> list[Line]:
    """The lines of a trace, each checked for what every reader relies on."""
    lines: list[Line] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        assert tuple(line)[: len(MOONCAKE_FIELDS)] == MOONCAKE_FIELDS
        assert len(line["hash_ids"]) == -(-line["input_length"] // 512)
    times = [line["timestamp"] for line in lines]
    assert times == sorted(times)
    assert times[:1] in ([], [0])
    seen = 0
    for one in (one for line in lines for one in line["hash_ids"]):
        assert 0 <= one <= seen, "ids are counted up as they come"
        seen = max(seen, one + 1)
    return lines


async def start_recording(service: Service, out: Path, *flags: str) -> asyncio.subprocess.Process:
    """Start the command with the configuration of a service."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "extproc", "record", "-c", str(service.config_file), "--out", str(out), *flags),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def is_recording(service: Service) -> bool:
    return bool((await service.admin("/recording"))["secs_left"])


@asynccontextmanager
async def recording(service: Service, out: Path, *flags: str) -> AsyncIterator[Recording]:
    """Record from the beginning of the block; its end ends the command, if the block has not."""
    process = await start_recording(service, out, *flags)
    running = Recording(process, out)
    try:
        await until(lambda: is_recording(service))
        yield running
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def observed_recording(
    directory: str = "", *, segment: Segment | None = None, max_bytes: int = 1 << 20
) -> ObservedRecording:
    """What orders recordings, on a segment of its own or a given one."""
    segment = segment or mapped()
    settings = RecordingSettings(directory=directory, max_bytes=max_bytes)
    return ObservedRecording(settings=settings, order=RecordingOrder(segment), rows=ProcessTable(segment).rows)


def recorded(arrived: float = 1.0, **fields: Any) -> Recorded:  # noqa: ANN401 - any field
    """A request of 100 tokens that nothing is known of; ``fields`` say otherwise."""
    known: dict[str, Any] = {
        "lasted": None,
        "input_length": 100,
        "input_from": "size",
        "output_length": 256,
        "output_from": "assumed",
        "hashes": b"",
        "tail": False,
        "model": None,
        "worker": "w1",
        "served": None,
        "status": 0,
        "policy": "round_robin",
        "reason": "round_robin",
        "matched_tokens": None,
    }
    return Recorded(arrived=arrived, **(known | fields))


def order(number: int = 7, *, until_ns: int = 1 << 62, salt: int = 99, max_bytes: int = 1 << 20) -> Order:
    return Order(until_ns, number, salt, max_bytes)


def part(*entries: Entry, salt: int = 99) -> bytes:
    """A part that starts as it must; requests are as a router has them."""
    written = [
        b"".join(frames([entry], salt=salt)) if isinstance(entry, Recorded) else frame(entry) for entry in entries
    ]
    return frame(Opening()) + b"".join(written)
