"""Waiting on conditions, and real child processes for tests."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

REPOSITORY = Path(__file__).parents[2]
DEADLINE_SECS = 30.0
POLL_SECS = 0.01

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T], *, deadline_secs: float = DEADLINE_SECS, why: Callable[[], str] | str = ""
) -> T:
    """Return the first truthy result of ``condition``; fail the test when there is none by the deadline.

    ``why`` is added to the failure: what was waited for, or the log that tells.
    """
    deadline = time.monotonic() + deadline_secs
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {deadline_secs} s: {why() if callable(why) else why}")
        time.sleep(POLL_SECS)
    return result


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def children(pid: int) -> list[int]:
    """The pids of a process's living children, in order of their ids."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state not in ("Z", "X"):
                found.append(int(stat.parent.name))
    return sorted(found)


def forked(work: Callable[[], bytes]) -> bytes:
    """Do some quick work in a process of its own, and return what it returns once that process is gone."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.write(writing, work())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        result = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0
    return result


def environment() -> dict[str, str]:
    """The environment for a Python child that imports this repository's packages, tests included."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY)}


@contextmanager
def python_child(code: str, *arguments: str, pass_fds: tuple[int, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    """Run Python code in a child with pipes on its standard input and output; it is killed at the end."""
    child = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        pass_fds=pass_fds,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()
