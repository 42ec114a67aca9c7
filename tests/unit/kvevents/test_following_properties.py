"""However batches are lost, doubled or late, and engines restart: the index says what the engine holds, or less."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.index.prefix_index import PrefixIndex, Tier
from extproc.kvevents.engine_cache import EngineCache
from extproc.kvevents.index_changes import apply_changes
from tests.support.engine_events import Cache, make, on_wire
from tests.support.event_channel import ACTIONS, Engine, World

SLOTS = (5, 70)
"""Of the engine, and of a neighbour that says nothing, in another group."""
MORE_ACTIONS = (*ACTIONS, "vanish", "look", "look", "turn over", "count")


class Following(World):
    """An engine with a cache, whose batches go over the channel and through all that follows it into the index."""

    def __init__(self, *, seed: int, buffer: int, has_replay: bool = True) -> None:
        rng = random.Random(seed)
        self.now = 0.0
        self.has_replay = has_replay
        self.model = Cache(rng)
        self.since = 0.0
        self.pending: list[object] | None = None
        self.ever: tuple[set[int], set[int]] = (set(), set())
        self.prefixes = PrefixIndex(memory=memoryview(bytearray(1 << 18)), clock=lambda: self.now)
        self.problems: list[str] = []
        self.cache = EngineCache(
            blocks=make(),
            rank=0,
            clock=lambda: self.now,
            wall_clock=lambda: 2000.0,
            on_doubt=lambda what, _: self.problems.append(what),
            on_lag=lambda _: None,
            on_batches=lambda: None,
        )
        super().__init__(Engine(buffer, events=self.happen), self.cache, seed=seed, has_replay=has_replay)

    def happen(self) -> list[object]:
        """Return what the engine says next."""
        if self.pending is not None:
            events, self.pending = self.pending, None
        else:
            events = [on_wire(self.model.step()) for _ in range(self.random.randint(0, 4))]
        for ever, held in zip(self.ever, self.model.held, strict=True):
            ever.update(held)
        return events

    def step(self, action: str) -> None:
        if action in {"restart", "vanish"}:
            self.model.clear()
            self.since = 0.0
        if action == "vanish":
            self.vanish()
        elif action == "look":
            apply_changes(self.prefixes, [(SLOTS[0], self.cache.take_changes())])
        elif action == "turn over":
            self.turn_over()
        elif action == "count":
            self.cache.turned_over(self.since)
        else:
            super().step(action)
        if action == "restart" and not self.has_replay:
            # Then only the first number of an incarnation tells of it for sure.
            super().step("publish")

    def vanish(self) -> None:
        """Restart, publish while nobody is connected, and restart again; only the last start is seen."""
        self.engine.restart()
        for _ in range(self.random.randrange(6)):
            self.engine.publish()
        self.step("restart")

    def turn_over(self) -> None:
        """Compute as much as the cache holds; the counters tell so later, even where the events are lost."""
        self.now += 0.1
        self.since = self.now
        self.pending = [on_wire(event) for event in self.model.turn_over()]
        super().step(self.random.choice(("publish", "publish", "lose", "delay")))

    def check(self) -> None:
        self.step("look")
        for tier in Tier:
            hashes = np.array(sorted(self.ever[tier]), np.uint64)
            indexed = {slot: set(hashes[self.prefixes.holds(hashes, slot, tier=tier)].tolist()) for slot in SLOTS}
            true = self.model.held[tier]
            assert indexed[SLOTS[1]] == set()
            assert indexed[SLOTS[0]] <= true
            if self.cache.complete:
                assert indexed[SLOTS[0]] == true


@given(
    st.lists(st.sampled_from(MORE_ACTIONS), max_size=60),
    st.integers(0, 1 << 30),
    st.sampled_from((3, 8, 1000)),
    st.booleans(),
)
def test_after_all_trouble_the_index_holds_what_the_engine_holds(
    actions: list[str], seed: int, buffer: int, has_replay: bool
) -> None:
    world = Following(seed=seed, buffer=buffer, has_replay=has_replay)
    world.stream.start(None, world.now)
    for action in actions:
        world.step(action)
    world.settle()

    assert world.stream.synced
    world.check()
    assert not world.cache.doubts


@pytest.mark.parametrize("seed", range(8))
def test_a_turnover_before_a_gap_says_nothing_of_what_was_lost_in_it(seed: int) -> None:
    world = Following(seed=seed, buffer=1000, has_replay=False)
    world.stream.start(None, world.now)
    for action in ("turn over", "publish", "publish", "lose", "lose", "publish", "count"):
        world.step(action)
    world.settle()

    assert not world.cache.complete
    world.check()

    world.step("turn over")
    world.step("count")
    world.settle()
    assert world.cache.complete == (len(world.problems) == 1)
    world.check()
