"""The two processes beside the router: one that publishes for all engines, and one that follows them.

Each runs on one core and is told through a pipe what to do. The follower is the observer's :class:`KvEvents`, alone.
"""

import asyncio
import gc
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
import zmq

from extproc.config.kv_events import KvEventsSettings
from extproc.fleet.worker import Worker
from extproc.index.block_hash import Hashes
from extproc.index.prefix_index import PrefixIndex, Tier
from extproc.observer.kv_events import KvEvents
from extproc.shm.layout import Part
from extproc.shm.segment import Segment
from extproc.shm.worker_table import WorkerTable
from extproc.telemetry.metrics import KvEventMetrics
from extproc.telemetry.tally import TallyHistogram
from extproc.telemetry.tasks import spawn
from tests.bench.kv_follow_feeds import EVENTS_A_BATCH, SPEC, Feed

EVENTS_A_SEC = 500
"""Events of one engine in a second."""

_PAUSE_SECS = 0.001
_SUBSCRIBE_MS = 20_000
_JOIN_SECS = 5.0
_WAITING_BATCHES = 100_000


@dataclass(frozen=True)
class Published:
    """What was sent for one order: ``batches`` of all engines, and the ``secs`` that it took."""

    batches: int
    secs: float


@dataclass(frozen=True)
class Followed:
    """What following took since it was told to begin.

    ``waited_secs`` is how long its threads could have run and had no core, which tells how much else the machine does,
    and ``longest_collection_secs`` the longest pause for garbage. ``to_reading`` and ``to_index`` have for each batch
    the seconds from its sending. ``batches`` were read and ``blocks`` are known of each engine, all from the start.
    """

    cpu_secs: float
    wall_secs: float
    waited_secs: float
    longest_collection_secs: float
    to_reading: list[float]
    to_index: list[float]
    batches: int
    blocks: list[int]


@contextmanager
def process(target: Callable[..., None], *arguments: object) -> Iterator[Connection]:
    """Run ``target`` in a process with the other end of a pipe as its first argument, and end it with the pipe."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_run, args=(ours, target, theirs, *arguments), daemon=True)
    child.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        child.join(_JOIN_SECS)
        if child.is_alive():
            child.kill()
            child.join()
        child.close()


def publish(orders: Connection, feeds: Sequence[Feed], endpoints: Sequence[str], core: int) -> None:
    """Send the first batch of each feed when all are subscribed to, and for each number received for so many seconds.

    Batches of the engines come in turn at the rate of all together; what is late is sent at once, with the time of its
    sending.
    """
    os.sched_setaffinity(0, {core})
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        sockets = [_bound(context, endpoint) for endpoint in endpoints]
        orders.send("bound")
        for socket in sockets:
            if not socket.poll(_SUBSCRIBE_MS):
                raise TimeoutError("nobody subscribes")
        for socket, feed in zip(sockets, feeds, strict=True):
            _send(socket, feed, 0)
        sent = len(feeds)
        orders.send(Published(sent, 0.0))
        while secs := _order(orders):
            published = _publish_for(secs, sockets, feeds, sent)
            sent += published.batches
            orders.send(published)
    finally:
        context.destroy(linger=0)


def follow(orders: Connection, segment: Segment, endpoints: Sequence[str], core: int) -> None:
    """Follow all engines: ``begin`` begins to count, ``batches`` asks how many were read, ``report`` for the rest."""
    os.sched_setaffinity(0, {core})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_follow(orders, segment, endpoints))


def _run(theirs: Connection, target: Callable[..., None], *arguments: Any) -> None:  # noqa: ANN401 - of any target
    # Inherited, it would keep the pipe open.
    theirs.close()
    gc.freeze()
    target(*arguments)


def _order(orders: Connection) -> Any:  # noqa: ANN401 - whatever was sent
    try:
        return orders.recv()
    except EOFError:
        return None


def _bound(context: "zmq.Context[zmq.Socket[bytes]]", endpoint: str) -> "zmq.Socket[bytes]":
    # As a PUB socket on the wire, but it tells who subscribes.
    socket = context.socket(zmq.XPUB)
    socket.set_hwm(_WAITING_BATCHES)
    socket.bind(endpoint)
    return socket


def _send(socket: "zmq.Socket[bytes]", feed: Feed, number: int) -> None:
    socket.send_multipart([b"", number.to_bytes(8, "big"), feed.payload(number, time.time())], zmq.NOBLOCK)


def _publish_for(secs: float, sockets: "Sequence[zmq.Socket[bytes]]", feeds: Sequence[Feed], before: int) -> Published:
    engines = len(feeds)
    rate = engines * EVENTS_A_SEC / EVENTS_A_BATCH
    batches = round(secs * rate / engines) * engines
    started = time.monotonic()
    sent = 0
    while sent < batches:
        due = min(int((time.monotonic() - started) * rate) + 1, batches)
        for number in range(before + sent, before + due):
            _send(sockets[number % engines], feeds[number % engines], number // engines)
        sent = due
        time.sleep(_PAUSE_SECS)
    return Published(sent, time.monotonic() - started)


class _Kept(TallyHistogram):
    """A histogram that also keeps what it observes, and when each was sent that is not in the index yet."""

    def __init__(self) -> None:
        super().__init__("bench_lag_seconds", "Time from a batch's sending to its reading.", registry=None)
        self.lags: list[float] = []
        self.to_index: list[float] = []
        self.read = 0
        self._on_the_way: list[float] = []

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        super().observe(amount, exemplar)
        self.read += 1
        self.lags.append(amount)
        self._on_the_way.append(time.time() - amount)

    def arrived(self) -> None:
        now = time.time()
        self.to_index += [now - sent for sent in self._on_the_way]
        self._on_the_way.clear()

    def begin(self) -> None:
        self.lags, self.to_index = [], []


class _Index(PrefixIndex):
    """An index that tells when blocks have come in. Every batch has one, and all that were read come in together."""

    kept: _Kept

    def hold(self, hashes: Hashes, slots: "np.typing.NDArray[np.int64]", *, tier: Tier) -> None:
        super().hold(hashes, slots, tier=tier)
        self.kept.arrived()


class _Collections:
    """Times the collections of garbage; a callback of :mod:`gc`."""

    def __init__(self) -> None:
        self.longest_secs = 0.0
        self._started = 0.0

    def __call__(self, phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            self._started = time.perf_counter()
        else:
            self.longest_secs = max(self.longest_secs, time.perf_counter() - self._started)


@dataclass(frozen=True)
class _Times:
    """What this process has had so far, all threads together."""

    cpu_secs: float
    wall_secs: float
    waited_secs: float

    @classmethod
    def now(cls) -> "_Times":
        waited = sum(int(file.read_text().split()[1]) for file in Path("/proc/self/task").glob("*/schedstat"))
        return cls(time.process_time(), time.monotonic(), waited / 1e9)


async def _follow(orders: Connection, segment: Segment, endpoints: Sequence[str]) -> None:
    metrics = KvEventMetrics()
    kept = metrics.lag_seconds = _Kept()
    prefixes = _Index(memory=segment.part(Part.PREFIX_INDEX), clock=time.monotonic)
    prefixes.kept = kept
    events = KvEvents(
        settings=KvEventsSettings(),
        table=WorkerTable(segment),
        prefixes=prefixes,
        models=lambda: (SPEC,),
        metrics=metrics,
        clock=time.monotonic,
    )
    workers = [_worker(slot, endpoint) for slot, endpoint in enumerate(endpoints)]
    for worker in workers:
        events.placed(worker)
    looking = spawn(events.run(), name="looking", eternal=True)
    told = asyncio.Event()
    asyncio.get_running_loop().add_reader(orders.fileno(), told.set)
    # The loop has changed that, and a report is longer than the pipe.
    os.set_blocking(orders.fileno(), True)
    collections = _Collections()
    gc.callbacks.append(collections)
    started = _Times.now()
    try:
        while True:
            await told.wait()
            order = _order(orders)
            told.clear()
            if order == "begin":
                kept.begin()
                collections.longest_secs = 0.0
                started = _Times.now()
                orders.send("begun")
            elif order == "batches":
                orders.send(kept.read)
            elif order == "report":
                ended = _Times.now()
                orders.send(
                    Followed(
                        cpu_secs=ended.cpu_secs - started.cpu_secs,
                        wall_secs=ended.wall_secs - started.wall_secs,
                        waited_secs=ended.waited_secs - started.waited_secs,
                        longest_collection_secs=collections.longest_secs,
                        to_reading=kept.lags,
                        to_index=kept.to_index,
                        batches=kept.read,
                        blocks=[events.blocks(worker.key) for worker in workers],
                    )
                )
            else:
                return
    finally:
        asyncio.get_running_loop().remove_reader(orders.fileno())
        looking.cancel()
        await events.close()


def _worker(slot: int, endpoint: str) -> Worker:
    return Worker(
        id=f"w{slot}",
        address=f"127.0.0.1:{8000 + slot}",
        slot=slot,
        models=(SPEC.name,),
        kv_events_endpoint=endpoint,
    )


def ipc_endpoints(directory: Path, count: int) -> list[str]:
    """Return where each of ``count`` engines publishes."""
    return [f"ipc://{directory}/{number}" for number in range(count)]
