"""What it costs to follow 64 engines that publish 500 events a second each, and what routers notice of it.

First the publisher has one core and the follower another, for ten seconds. The follower is the observer's part for
events, without health checks and discovery. Then a router chooses by `expected_latency` on a core of its own, in turn
while publisher and follower work on the other core and while they rest: the ratio shows what is left between them, the
memory that they share and the machine's caches. As a control the follower then writes to memory of its own.
"""

import gc
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from time import monotonic, perf_counter
from typing import TypeVar

import numpy as np

from extproc.index.prefix_index import PrefixIndex, Tier
from extproc.policies.registry import POLICIES
from extproc.shm.layout import Part
from extproc.shm.segment import Segment
from tests.bench.kv_follow_feeds import EVENTS_A_BATCH, Feed
from tests.bench.kv_follow_processes import EVENTS_A_SEC, Followed, Published, follow, ipc_endpoints, process, publish
from tests.bench.policies import BLOCK_SIZE, decide_once, make_candidates, make_request
from tests.bench.rows import Row
from tests.support.fleets import Shared

ENGINES = 64
SECS = 10.0
ROUNDS = 8
ROUND_SECS = 1.25
CORES_BAR = 1.0
LAG_BAR_MS = 50.0
RATIO_BAR = 1.1
"""What counts as unaffected."""

_CANDIDATES = 8
_PROMPT_BLOCKS = 500
_INDEX_BYTES = 64 << 20
_CATCH_UP_SECS = 20.0
_Kind = TypeVar("_Kind")
_WHAT = f"KV events of {ENGINES} engines x {EVENTS_A_SEC}/s"


@dataclass(frozen=True)
class _Stage:
    """The two processes, and where they work."""

    publisher: Connection
    follower: Connection
    segment: Segment

    def send_for(self, secs: float) -> Published:
        """Have batches published, and wait until that is done."""
        self.publisher.send(secs)
        return _received(self.publisher, Published)

    def caught_up(self, batches: int) -> bool:
        """Wait until so many batches were read since the start; false when they are not in time."""
        until = monotonic() + _CATCH_UP_SECS
        while monotonic() < until:
            self.follower.send("batches")
            if _received(self.follower, int) >= batches:
                return True
            time.sleep(0.02)
        return False


def measure_kv_follow() -> Iterator[Row]:
    """Measure following by itself, and then beside a router; takes about a minute."""
    cores = sorted(os.sched_getaffinity(0))
    batches = round(max(SECS, ROUNDS * ROUND_SECS) * EVENTS_A_SEC / EVENTS_A_BATCH) + ROUNDS
    feeds = [Feed(seed=seed, batches=batches) for seed in range(ENGINES)]
    gc.freeze()
    try:
        yield from _following(feeds, cores)
        yield from _deciding(feeds, cores)
    finally:
        os.sched_setaffinity(0, cores)
        gc.unfreeze()


@contextmanager
def _stage(feeds: Sequence[Feed], segment: Segment, *, publisher_core: int, follower_core: int) -> Iterator[_Stage]:
    with tempfile.TemporaryDirectory(prefix="extproc-bench-") as name, ExitStack() as stack:
        endpoints = ipc_endpoints(Path(name), len(feeds))
        publisher = stack.enter_context(process(publish, feeds, endpoints, publisher_core))
        _received(publisher, str)
        follower = stack.enter_context(process(follow, segment, endpoints, follower_core))
        stage = _Stage(publisher, follower, segment)
        if not stage.caught_up(_received(publisher, Published).batches):
            raise TimeoutError("the first batches are not followed")
        yield stage


def _following(feeds: Sequence[Feed], cores: Sequence[int]) -> Iterator[Row]:
    shared = Shared(prefix_index_bytes=_INDEX_BYTES)
    with _stage(feeds, shared.segment, publisher_core=cores[0], follower_core=cores[-1]) as stage:
        stage.follower.send("begin")
        _received(stage.follower, str)
        published = stage.send_for(SECS)
        stage.caught_up(ENGINES + published.batches)
        stage.follower.send("report")
        followed = _received(stage.follower, Followed)
    rate = published.batches * EVENTS_A_BATCH / published.secs
    yield Row(f"{_WHAT}: published", f"{rate:,.0f} events/s")
    wrong = _wrong(feeds, shared.segment, followed, ENGINES + published.batches)
    yield Row(f"{_WHAT}: engines known wrongly", f"{wrong}", "0", wrong == 0)
    used = followed.cpu_secs / followed.wall_secs
    yield Row(f"{_WHAT}: follower's CPU", f"{used:.2f} cores", f"< {CORES_BAR:g}", used < CORES_BAR)
    yield Row(f"{_WHAT}: waited for a core", f"{1000 * followed.waited_secs:,.0f} ms")
    yield Row(f"{_WHAT}: longest collection", f"{1000 * followed.longest_collection_secs:.1f} ms")
    yield from _lag_rows("to reading", followed.to_reading)
    yield from _lag_rows("to the index", followed.to_index)


def _lag_rows(what: str, lags: Sequence[float]) -> Iterator[Row]:
    middle, last, longest = np.percentile(lags, [50, 99, 100]) * 1000
    yield Row(f"{_WHAT}: lag {what}, p50", f"{middle:.1f} ms")
    yield Row(f"{_WHAT}: lag {what}, p99", f"{last:.1f} ms", f"< {LAG_BAR_MS:g} ms", bool(last < LAG_BAR_MS))
    yield Row(f"{_WHAT}: lag {what}, longest", f"{longest:.1f} ms")


def _wrong(feeds: Sequence[Feed], segment: Segment, followed: Followed, batches: int) -> int:
    """Return of how many engines the follower or the index knows anything else than what was published."""
    index = PrefixIndex(memory=segment.part(Part.PREFIX_INDEX), clock=monotonic)
    if followed.batches != batches:
        return len(feeds)
    right = 0
    for slot, feed in enumerate(feeds):
        held, gone = feed.held(batches // len(feeds))
        right += bool(
            followed.blocks[slot] == len(held)
            and index.is_precise(slot)
            and index.holds(held, slot, tier=Tier.NEAR).all()
            and not index.holds(gone, slot, tier=Tier.NEAR).any()
        )
    return len(feeds) - right


def _deciding(feeds: Sequence[Feed], cores: Sequence[int]) -> Iterator[Row]:
    for where, bar in (("same memory", RATIO_BAR), ("other memory", None)):
        router = _Router()
        segment = router.shared.segment if bar else Shared(prefix_index_bytes=_INDEX_BYTES).segment
        with _stage(feeds, segment, publisher_core=cores[-1], follower_core=cores[-1]) as stage:
            os.sched_setaffinity(0, {cores[0]})
            alone, beside = _rounds(router, stage)
        what = f"{_CANDIDATES} workers, {_PROMPT_BLOCKS} blocks, follower on {where}"
        if bar:
            yield Row(f"decision, {what}: at rest", f"{median(alone):.1f} µs")
        ratio = median(busy / idle for busy, idle in zip(beside, alone, strict=True))
        yield Row(
            f"decision, {what}: ratio",
            f"{ratio:.2f}x",
            f"≤ {bar:g}x (other core)" if bar else "",
            ratio <= bar if bar else None,
        )


def _rounds(router: "_Router", stage: _Stage) -> tuple[list[float], list[float]]:
    """Return the median decision of each round at rest, and of the one after it while events are followed."""
    alone, beside = [], []
    router.decide_for(ROUND_SECS)
    sent = ENGINES
    for _ in range(ROUNDS):
        alone.append(router.decide_for(ROUND_SECS))
        stage.publisher.send(ROUND_SECS)
        beside.append(router.decide_for(ROUND_SECS))
        sent += _received(stage.publisher, Published).batches
        if not stage.caught_up(sent):
            raise TimeoutError("the follower does not keep up with the publisher on one core")
    return alone, beside


class _Router:
    """What a router does with a tokenized request, one after the other."""

    def __init__(self) -> None:
        self.shared = Shared(prefix_index_bytes=_INDEX_BYTES)
        self._set_clock()
        loads = self.shared.loads()
        self._policy = POLICIES["expected_latency"](self.shared.context(loads=loads))
        self._everyone = make_candidates(_CANDIDATES, self.shared)
        self._accounts = self.shared.accounts(loads=loads)
        self._number = 0

    def decide_for(self, secs: float) -> float:
        """Choose for so many seconds; return the median microseconds of a choice."""
        times: list[float] = []
        until = monotonic() + secs
        while monotonic() < until or not times:
            request = make_request(_PROMPT_BLOCKS * BLOCK_SIZE, self._number)
            self._number += 1
            self._set_clock()
            started = perf_counter()
            decide_once(self._policy, request, self._everyone, self._accounts)
            times.append(perf_counter() - started)
        return median(times) * 1e6

    def _set_clock(self) -> None:
        # That of the follower, as in the service.
        self.shared.clock.now = monotonic()


def _received(connection: Connection, kind: type[_Kind]) -> _Kind:
    if not connection.poll(60):
        raise TimeoutError("a process of the benchmark does not answer")
    answer = connection.recv()
    assert isinstance(answer, kind)
    return answer
