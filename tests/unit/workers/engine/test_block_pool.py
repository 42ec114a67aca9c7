"""The pool against a list of blocks that is searched from end to end."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from workers.engine.block_pool import BlockPool

HASHES = st.integers(0, 5)


class PoolMachine(RuleBasedStateMachine):
    """Sequences take, share, fill and release blocks; the model says which block is given out next."""

    @initialize(size=st.integers(1, 12))
    def start(self, size: int) -> None:
        self.evicted: list[int] = []
        self.expected_evicted: list[int] = []
        self.pool = BlockPool(size, on_evicted=self.evicted.append)
        self.order = list(range(size))
        self.holders = [0] * size
        self.hashes: list[int | None] = [None] * size
        self.sequences: list[list[int]] = []

    @precondition(lambda self: self.order)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, len(self.order)))
        expected, self.order = self.order[:count], self.order[count:]
        for block in expected:
            block_hash, self.hashes[block] = self.hashes[block], None
            if block_hash is not None:
                self.expected_evicted.append(block_hash)
            self.holders[block] = 1

        assert self.pool.take(count) == expected
        self.sequences.append(expected)

    @precondition(lambda self: self.sequences)
    @rule(data=st.data(), block_hash=HASHES)
    def fill(self, data: st.DataObject, block_hash: int) -> None:
        block = data.draw(st.sampled_from(sorted({block for blocks in self.sequences for block in blocks})))
        if self.hashes[block] is None:
            self.hashes[block] = block_hash
            self.pool.store(block, block_hash)

    @rule(prefix=st.lists(HASHES, max_size=3, unique=True))
    def share(self, prefix: list[int]) -> None:
        known = [block_hash in self.hashes for block_hash in prefix]
        hits = self.pool.cached(prefix)
        assert len(hits) == (known.index(False) if False in known else len(prefix))
        assert [self.hashes[block] for block in hits] == prefix[: len(hits)]
        assert self.pool.count_free(hits) == sum(self.holders[block] == 0 for block in hits)

        self.pool.hold(hits)
        for block in hits:
            if not self.holders[block]:
                self.order.remove(block)
            self.holders[block] += 1
        if hits:
            self.sequences.append(hits)

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        blocks = self.sequences.pop(data.draw(st.integers(0, len(self.sequences) - 1)))
        self.pool.release(blocks)
        for block in reversed(blocks):
            self.holders[block] -= 1
            if not self.holders[block]:
                self.order.append(block)

    @rule()
    def clear(self) -> None:
        self.pool.clear()
        self.hashes = [None] * len(self.hashes)

    @invariant()
    def the_pool_agrees(self) -> None:
        if not hasattr(self, "pool"):
            return
        assert self.pool.free == len(self.order)
        assert self.pool.usage == pytest.approx(1 - len(self.order) / len(self.holders))
        assert self.evicted == self.expected_evicted
        assert self.pool.evictions == len(self.evicted)
        assert [self.pool.holds(block_hash) for block_hash in range(6)] == [
            block_hash in self.hashes for block_hash in range(6)
        ]


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_a_prefix_is_lost_from_its_end() -> None:
    evicted: list[int] = []
    pool = BlockPool(3, on_evicted=evicted.append)
    blocks = pool.take(3)
    for block, block_hash in zip(blocks, (10, 20, 30), strict=True):
        pool.store(block, block_hash)
    pool.release(blocks)

    pool.take(2)

    assert evicted == [30, 20]
    assert len(pool.cached([10, 20, 30])) == 1


def test_each_copy_of_a_block_is_evicted_on_its_own() -> None:
    evicted: list[int] = []
    pool = BlockPool(2, on_evicted=evicted.append)
    one, two = pool.take(1), pool.take(1)
    pool.store(one[0], 7)
    pool.store(two[0], 7)
    pool.release(one)
    pool.release(two)

    pool.take(1)
    assert (evicted, pool.holds(7)) == ([7], True)
    pool.take(1)
    assert (evicted, pool.holds(7)) == ([7, 7], False)
