"""Processes that write into the shared token cache are killed at any instruction; nothing wrong is read from it."""

import os
import random
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from extproc.shm.segment import Segment
from tests.support.cached_conversations import CONVERSATIONS, TURNS, conversation, make_cache, tokens_of
from tests.support.processes import environment, wait_until
from tests.support.stores import make_segment

KILLS = 200
WRITERS = 2


@contextmanager
def nursery(segment: Segment) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.cached_conversations", str(segment.fd)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        pass_fds=(segment.fd,),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def start_writer(process: subprocess.Popen[str]) -> int:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return int(process.stdout.readline())


def test_killing_writers_at_any_moment_never_yields_wrong_ids() -> None:
    segment = make_segment()
    cache = make_cache(segment)
    rng = random.Random(1)
    reused = 0
    with nursery(segment) as process:
        writers: deque[int] = deque()
        try:
            for _ in range(KILLS):
                while len(writers) < WRITERS:
                    writers.append(start_writer(process))
                for _ in range(rng.randint(0, 3)):
                    text = conversation(rng.randrange(CONVERSATIONS), rng.randint(1, TURNS))
                    found = tokens_of(cache, text)
                    assert np.array_equal(found.ids, cache.encoder.encode(text))
                    reused += found.cache != "miss"
                os.kill(writers.popleft(), signal.SIGKILL)
        finally:
            for pid in writers:
                os.kill(pid, signal.SIGKILL)
    assert reused > KILLS / 2
    # Neither the store nor its lock is any the worse for it.
    store = cache.store
    assert store is not None
    wait_until(store.flush)
    text = conversation(1, TURNS)
    assert tokens_of(cache, text).cache == "miss"
    assert tokens_of(make_cache(segment), text).cache == "level_0"
