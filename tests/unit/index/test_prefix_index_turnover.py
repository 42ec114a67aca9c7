"""What is believed of workers that are known to have turned their caches over since some moment."""

import random
from collections import OrderedDict, deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.index.block_hash import Hashes, block_hashes
from extproc.index.prefix_index import STAMPS_PER_SEC, PrefixIndex
from tests.support.fleets import Clock

TICK = 1 / STAMPS_PER_SEC
GROUPS = pytest.mark.parametrize("group", [0, 3, 15])


def prompt(*tokens: int) -> Hashes:
    """The hashes of a prompt whose blocks have one token each."""
    return block_hashes(np.array(tokens, dtype=np.uint32), block_size=1, before=77)


LONG = prompt(*range(1000, 1040))


class Bench:
    """Two processes with an index, and the moments since which caches have been turned over."""

    def __init__(self, *, half_life_secs: float = 0.0, now: float = 1000.0) -> None:
        self.clock = Clock(now)
        # Every other number, as in the table, where the numbers of a worker lie side by side.
        self.since = np.zeros((1024, 2))[:, 1]
        memory = memoryview(bytearray(1 << 20))
        self.processes = [
            PrefixIndex(memory=memory, clock=self.clock, half_life_secs=half_life_secs, cached_since=self.since)
            for _ in range(2)
        ]
        self.index = self.processes[0]

    def held(self, hashes: Hashes, *slots: int) -> list[float]:
        found: list[float] = self.index.match(hashes, np.array(slots)).tolist()
        return found


@GROUPS
def test_what_was_recorded_before_the_cache_was_turned_over_is_lost(group: int) -> None:
    bench, one, other = Bench(), group * 64 + 5, group * 64 + 63
    bench.index.record(LONG, one)
    bench.index.record(prompt(1, 2, 3), other)
    bench.since[one] = 1000.0
    assert bench.held(LONG, one, other) == [40, 0], "not what was recorded at that very moment"
    bench.clock.advance(10)
    bench.since[one] = 1000.0 + TICK
    assert bench.held(LONG, one, other) == [0, 0]
    assert bench.held(prompt(1, 2, 3), one, other) == [0, 3], "others have their own moments"
    bench.since[:] = 0
    assert bench.held(LONG, one) == [40], "0 is none"


def test_of_a_conversation_what_was_sent_again_is_still_there() -> None:
    bench = Bench()
    bench.index.record(LONG, 5)
    bench.clock.advance(10)
    bench.index.record(LONG[:25], 5)
    bench.clock.advance(10)
    bench.since[5] = 1010.0
    assert bench.held(LONG, 5) == [25]
    bench.since[5] = 1015.0
    assert bench.held(LONG, 5) == [0]


@GROUPS
def test_what_the_worker_itself_has_lost_is_news(group: int) -> None:
    """It has to compute it again, and what has failed is taken back."""
    bench, slot = Bench(), group * 64 + 9
    bench.index.record(LONG, slot)
    bench.clock.advance(10)
    bench.index.record(LONG[:25], slot)
    bench.clock.advance(10)
    bench.since[slot] = 1010.0
    news = bench.index.record(LONG, slot)
    assert news.tolist() == LONG[25:].tolist()
    assert bench.held(LONG, slot) == [40]
    bench.index.forget(news, slot)
    assert bench.held(LONG, slot) == [25]


def test_a_block_that_is_recorded_for_another_worker_does_not_come_back() -> None:
    bench = Bench()
    bench.index.record(LONG, 5)
    bench.clock.advance(10)
    bench.since[5] = 1005.0
    assert bench.index.record(LONG[:25], 6).tolist() == LONG[:25].tolist()
    assert bench.held(LONG, 5, 6) == [0, 25]
    bench.since[5] = 0
    assert bench.held(LONG, 5) == [40], "only of what was recorded anew has it been taken"
    assert bench.held(LONG[:25], 5) == [0]


def test_a_block_that_others_are_sent_makes_a_worker_be_believed_for_longer() -> None:
    """An entry has one stamp; a worker that has lost nothing yet counts as if it had been sent the block as well."""
    bench = Bench()
    bench.index.record(LONG, 5)
    bench.clock.advance(10)
    bench.index.record(LONG[:25], 6)
    bench.since[5] = 1005.0
    assert bench.held(LONG, 5, 6) == [25, 25]


def test_blocks_that_nobody_holds_hide_nothing_behind_them() -> None:
    bench = Bench()
    first = bench.index.record(LONG[:20], 5)
    bench.index.record(LONG, 5)
    bench.index.forget(first, 5)
    bench.since[5] = 999.0
    assert bench.held(LONG, 5) == [40]


def test_the_age_of_a_match_is_that_of_its_deepest_block_that_is_there() -> None:
    bench = Bench(half_life_secs=60.0)
    bench.index.record(LONG, 5)
    bench.clock.advance(60)
    bench.index.record(LONG[:20], 5)
    bench.since[5] = 1030.0
    bench.clock.advance(60)
    assert bench.held(LONG, 5) == pytest.approx([10])


@pytest.mark.parametrize("ahead", [0.01, 0.9, 50.0])
def test_a_moment_later_than_our_clock_is_now(ahead: float) -> None:
    """The observer has read the clock after us: what we record in the meantime stays."""
    bench = Bench()
    bench.index.record(LONG, 5)
    bench.clock.advance(1)
    bench.since[5] = bench.clock.now + ahead
    assert bench.held(LONG, 5) == [0]
    bench.index.record(LONG, 5)
    assert bench.held(LONG, 5) == [40]


def test_a_process_with_a_later_clock_records_nothing_that_is_old() -> None:
    bench = Bench()
    bench.clock.advance(0.5)
    bench.processes[1].record(LONG, 5)
    bench.clock.advance(-0.5)
    bench.since[5] = 1000.0
    assert bench.held(LONG, 5) == [40]


def test_stamps_that_begin_anew_are_no_older() -> None:
    """After two years they are counted from zero again."""
    bench = Bench(now=(1 << 32) / STAMPS_PER_SEC - 1.0)
    bench.index.record(LONG, 5)
    bench.clock.advance(2)
    bench.index.record(LONG[:10], 5)
    bench.clock.advance(2)
    bench.since[5] = bench.clock.now - 3
    assert bench.held(LONG, 5) == [10]
    bench.since[5] = bench.clock.now - 4
    assert bench.held(LONG, 5) == [40]


class Worker:
    """A cache of so many tokens, a block each, of which the least recently used goes; it counts what it computes.

    ``told`` is what readings of the counter give: a moment since which it has computed as much as its cache holds.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._cache: OrderedDict[tuple[int, ...], None] = OrderedDict()
        self._computed = 0
        self._readings: deque[tuple[float, int]] = deque()
        self.sent_at: dict[tuple[int, ...], float] = {}
        self.told = 0.0

    def serve(self, tokens: tuple[int, ...], now: float) -> None:
        # The end of a prompt is used less recently than its beginning, so a prefix is lost from its end.
        for end in range(len(tokens), 0, -1):
            block = tokens[:end]
            self._computed += block not in self._cache
            self._cache[block] = None
            self._cache.move_to_end(block)
            self.sent_at[block] = now
        while len(self._cache) > self._capacity:
            self._cache.popitem(last=False)

    def read(self, now: float) -> None:
        self._readings.append((now, self._computed))
        for moment, computed in self._readings:
            if computed <= self._computed - self._capacity:
                self.told = moment

    def holds(self, tokens: tuple[int, ...]) -> int:
        """The blocks of a prompt that are in the cache."""
        return next((end for end in range(len(tokens)) if tokens[: end + 1] not in self._cache), len(tokens))

    def may_hold(self, tokens: tuple[int, ...], sent_at: dict[tuple[int, ...], float]) -> int:
        """The blocks that were sent since the moment told, given when each was."""
        ends = range(1, len(tokens) + 1)
        return max((end for end in ends if sent_at.get(tokens[:end], -1.0) >= self.told), default=0)


LONGEST = 8
SLOTS = (1, 63, 1023)


class Service:
    """Workers that are sent conversations which go on, are cut, and come back; sent by two processes in turn."""

    def __init__(self, seed: int, *, capacity: int, shared: bool) -> None:
        self.rng = random.Random(seed)
        self.bench = Bench()
        self.workers = {slot: Worker(capacity) for slot in SLOTS}
        self._shared = shared

    def prompt(self, slot: int) -> tuple[int, ...]:
        """A prompt for a worker, which no other worker gets unless they are shared."""
        conversation = self.rng.randrange(3) if self._shared else 3 * slot + self.rng.randrange(3)
        return (conversation, *range(self.rng.randrange(LONGEST)))

    def step(self) -> tuple[int, tuple[int, ...]] | None:
        """Send a prompt somewhere, or read a worker's counter; return what was sent to whom, if anything."""
        slot = self.rng.choice(SLOTS)
        worker, now = self.workers[slot], self.bench.clock.now
        sent = None
        if self.rng.random() < 0.4:
            worker.read(now)
            self.bench.since[slot] = worker.told
        else:
            sent = slot, self.prompt(slot)
            self._record(worker, *sent)
            worker.serve(sent[1], now)
        self.bench.clock.advance(TICK)
        return sent

    def _record(self, worker: Worker, slot: int, tokens: tuple[int, ...]) -> None:
        news = self.rng.choice(self.bench.processes).record(prompt(*tokens), slot)
        if not self._shared:
            known = {block for block, at in worker.sent_at.items() if at >= worker.told}
            new = [tokens[: end + 1] not in known for end in range(len(tokens))]
            assert news.tolist() == prompt(*tokens)[np.array(new)].tolist()


RUNS = given(seed=st.integers(0, 1 << 32), capacity=st.integers(LONGEST, 14))


@settings(deadline=None)
@RUNS
def test_a_worker_whose_prompts_nobody_shares_is_believed_what_its_turnover_says(seed: int, capacity: int) -> None:
    """No block less than is in its cache, and none that is certainly gone."""
    service = Service(seed, capacity=capacity, shared=False)
    for _ in range(60):
        service.step()
        for slot, worker in service.workers.items():
            asked = service.prompt(slot)
            (believed,) = service.bench.held(prompt(*asked), slot)
            assert worker.holds(asked) <= believed == worker.may_hold(asked, worker.sent_at)


@settings(deadline=None)
@RUNS
def test_workers_that_share_prompts_are_believed_no_less_than_they_hold(seed: int, capacity: int) -> None:
    """And no block that none of their group was sent since."""
    service = Service(seed, capacity=capacity, shared=True)
    sent_at: dict[int, dict[tuple[int, ...], float]] = {slot >> 6: {} for slot in SLOTS}
    for _ in range(60):
        now = service.bench.clock.now
        sent = service.step()
        if sent is not None:
            slot, tokens = sent
            sent_at[slot >> 6].update({tokens[:end]: now for end in range(1, len(tokens) + 1)})
        asked = service.prompt(SLOTS[0])
        believed = service.bench.held(prompt(*asked), *SLOTS)
        for depth, (one, worker) in zip(believed, service.workers.items(), strict=True):
            assert worker.holds(asked) <= depth <= worker.may_hold(asked, sent_at[one >> 6])


def test_the_runs_turn_caches_over_often() -> None:
    """Else they would show nothing."""
    service = Service(1, capacity=LONGEST, shared=False)
    told: set[float] = set()
    for _ in range(600):
        service.step()
        told.update(worker.told for worker in service.workers.values())
    assert len(told) > 40
