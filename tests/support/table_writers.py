"""Processes that write into the shared tables until they are killed.

``python -m tests.support.table_writers FD`` reads lines from its standard input: ``start KIND SEED`` forks a writer,
which prints its pid once it has written something; ``kill PID`` prints ``killed`` when it is gone, or ``had failed``.
"""

import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from extproc.index.block_hash import Hashes, block_hashes
from extproc.index.prefix_index import PrefixIndex
from extproc.index.sticky_map import StickyMap
from extproc.shm.layout import Part
from extproc.shm.segment import Segment
from extproc.shm.worker_table import WorkerTable
from tests.support.processes import environment

SLOTS = np.array([0, 1, 63, 64, 700])
CONVERSATIONS = 30
KEYS = 40
WORKER = 5
WIDE = (1 << 40) + 1
"""A number whose halves both change when it is added to zero."""


def prompt(rng: random.Random) -> Hashes:
    """A conversation of up to 400 blocks, cut anywhere."""
    ids = np.random.default_rng(rng.randrange(CONVERSATIONS)).integers(0, 1 << 17, 400, dtype=np.uint32)
    return block_hashes(ids[: rng.randint(1, 400)], block_size=1, before=7)


def workers_of(key: int) -> tuple[int, int]:
    """The one pair of workers that a key is ever given."""
    return key * 1_000_003, key * 1_000_003 + 1


def _write_prefixes(segment: Segment, rng: random.Random) -> Iterator[None]:
    index = PrefixIndex(memory=segment.part(Part.PREFIX_INDEX), clock=time.monotonic, half_life_secs=3600.0)
    while True:
        hashes = prompt(rng)
        news = index.record(hashes, rng.choice(SLOTS.tolist()))
        yield
        depths = index.match(hashes, SLOTS)
        if len(news) > len(hashes) or depths.max() > len(hashes) or depths.min() < 0:
            raise AssertionError(f"{len(news)} news and depths {depths} of {len(hashes)} blocks")
        if rng.random() < 0.1:
            index.forget(news, rng.choice(SLOTS.tolist()))
        if rng.random() < 0.02:
            index.clear_worker(rng.choice(SLOTS.tolist()))


def _write_stickies(segment: Segment, rng: random.Random) -> Iterator[None]:
    stickies = StickyMap(segment.part(Part.STICKY_MAP))
    for now in range(1, 1 << 40):
        key = rng.randint(1, KEYS)
        stickies.put(key, workers_of(key), now)
        yield
        stickies.touch(rng.randint(1, KEYS), now)


def _write_columns(segment: Segment, rng: random.Random) -> Iterator[None]:
    column = WorkerTable(segment).column(rng.randint(0, 3))
    while True:
        column.add(WORKER, requests=1, decode_tokens=100)
        column.note_sent(WORKER, tokens=10, blocks=1)
        yield
        column.add(WORKER, requests=-1, decode_tokens=-100)


def _flip_wide_numbers(segment: Segment, rng: random.Random) -> Iterator[None]:
    column = WorkerTable(segment).column(rng.randint(0, 3))
    while True:
        column.add(WORKER, decode_tokens=WIDE)
        yield
        column.add(WORKER, decode_tokens=-WIDE)


_KINDS: dict[str, Callable[[Segment, random.Random], Iterator[None]]] = {
    "prefixes": _write_prefixes,
    "stickies": _write_stickies,
    "columns": _write_columns,
    "wide": _flip_wide_numbers,
}


class Nursery:
    """What the test asks for writers."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._started = 0

    def start(self, kind: str) -> int:
        """Start a writer and return its pid, once it has written something."""
        self._started += 1
        return int(self._ask(f"start {kind} {self._started}"))

    def kill(self, pid: int) -> None:
        """Kill a writer; it is gone when this returns, and had found nothing wrong."""
        assert self._ask(f"kill {pid}") == "killed"

    def _ask(self, words: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{words}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()


@contextmanager
def nursery(segment: Segment) -> Iterator[Nursery]:
    """Give writers on a segment; all of them end with this."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.table_writers", str(segment.fd)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        pass_fds=(segment.fd,),
    )
    try:
        yield Nursery(process)
    finally:
        process.communicate()


def _write(segment: Segment, kind: str, seed: int) -> None:
    writing = _KINDS[kind](segment, random.Random(seed))
    next(writing)
    os.write(sys.stdout.fileno(), f"{os.getpid()}\n".encode())
    for _ in writing:
        pass


def _start(segment: Segment, kind: str, seed: int) -> int:
    pid = os.fork()
    if not pid:
        try:
            _write(segment, kind, seed)
        except BaseException:  # noqa: BLE001 - the nursery's own loop must not go on in the child
            traceback.print_exc()
        os._exit(1)
    return pid


def _end(pid: int) -> bool:
    """Kill a writer; whether it had still been writing."""
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


def main() -> None:
    """Do what the lines say, until there are no more."""
    segment = Segment.attach(int(sys.argv[1]))
    writers: set[int] = set()
    for line in sys.stdin:
        match line.split():
            case ["start", kind, seed]:
                writers.add(_start(segment, kind, int(seed)))
            case ["kill", pid]:
                writers.remove(int(pid))
                os.write(sys.stdout.fileno(), b"killed\n" if _end(int(pid)) else b"had failed\n")
    for pid in writers:
        _end(pid)


if __name__ == "__main__":
    main()
