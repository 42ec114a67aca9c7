"""After any stream of events the blocks are the engine's, also where it is saved and read in between."""

import contextlib
import dataclasses
import itertools
import random
from collections.abc import Iterator
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from extproc.kvevents.decode import PayloadError, decode_batch
from extproc.kvevents.engine_blocks import Changes, EngineBlocks, IncompatibleBlockSize
from extproc.kvevents.entries import _GROWTH, FAR, NEAR
from extproc.kvevents.events import AllBlocksCleared, BlockRemoved
from tests.support.engine_events import LONGER, SETTINGS, SIZE, TOKENS, Cache, Told, make, name, ours, root, stored
from tests.support.engine_runs import small_profile
from workers.engine.engine import Engine
from workers.engine.request import Request
from workers.simulated.kv_events import Encoder


@given(st.integers(0, 2**32), st.sampled_from([1, 2, 3]), st.booleans(), st.integers(1, 30))
def test_the_blocks_are_those_of_a_cache_with_copies(seed: int, factor: int, digests: bool, batch: int) -> None:
    rng = random.Random(seed)
    cache = Cache(rng, factor=factor, digests=digests)
    blocks = make()
    told = Told(blocks)
    for moment in range(12):
        blocks.apply([cache.step() for _ in range(rng.randint(1, batch))], now=moment)
        if rng.random() < 0.5:
            assert told.look() == cache.held
        if rng.random() < 0.2:
            blocks = EngineBlocks.restore(blocks.dump(), root=root, block_size=SIZE, settings=SETTINGS)
            told = Told(blocks)
    assert told.look() == cache.held
    assert len(blocks) == len(cache.held[NEAR] | cache.held[FAR])
    assert blocks.orphans_rejected == blocks.forgotten == blocks.unplaceable == 0


def play(seed: int) -> Iterator[tuple[bytes, set[int]]]:
    """Play random prompts to a small engine; yield each batch of its events, and what it holds then in our hashes."""
    rng = random.Random(seed)
    engine = Engine(small_profile(blocks=24), keep_events=True)
    encoder = Encoder(block_size=SIZE, loras=["ad1"])
    own: dict[int, int] = {}
    for _ in range(60):
        ids = [token for _ in range(rng.randint(1, 5)) for token in [rng.randrange(2)] * SIZE] + [5] * rng.randrange(
            SIZE
        )
        answer = rng.randint(1, 9)
        ids += [rng.randrange(2)] * answer
        lora, salt = rng.choice([("", ""), ("ad1", ""), ("", "s")])
        names = [name(ids[: end * SIZE], lora, salt) for end in range(1, len(ids) // SIZE + 1)]
        own.update(zip(names, ours(ids, lora=lora, salt=salt), strict=True))
        request = Request(
            prompt_tokens=len(ids) - answer, answer_tokens=answer, hashes=names, on_first=lambda _: None,
            on_end=lambda _: None, lora=lora, tokens=ids, cache_salt=salt,
        )  # fmt: skip
        engine.add(request, engine.due if engine.due < inf else 0.0)
        for _ in range(rng.randint(0, 6)):
            if engine.due < inf:
                engine.advance()
        yield encoder.batch(engine.events, now=1.0), {own[block] for block in engine._pool._by_hash}
        engine.events.clear()


@given(st.integers(0, 2**32))
def test_the_blocks_are_those_of_the_model_of_an_engine(seed: int) -> None:
    blocks = make()
    told = Told(blocks)
    for payload, held in play(seed):
        blocks.apply(decode_batch(payload).events, now=0)
        assert told.look() == (held, set())
    assert blocks.orphans_rejected == blocks.unplaceable == 0


def test_a_plain_set_of_blocks_would_be_wrong_of_these_engines() -> None:
    """What the streams above are worth: without counting copies, what is held differs from what the engine holds."""
    wrong = 0
    for seed in range(5):
        blocks = make()
        plain: set[int] = set()
        for payload, held in play(seed):
            for event in decode_batch(payload).events:
                blocks.apply([event], now=0)
                changes = blocks.take_changes()
                plain |= set(changes.gained[NEAR].tolist())
                if isinstance(event, BlockRemoved):
                    index = blocks._entries
                    plain -= {index.own[index.index[block]] for block in event.block_hashes}
            wrong += plain != held
    assert wrong


def changes_equal(one: Changes, other: Changes) -> bool:
    return one.cleared == other.cleared and all(
        set(left.tolist()) == set(right.tolist())
        for left, right in zip((*one.gained, *one.lost), (*other.gained, *other.lost), strict=True)
    )


@given(st.integers(0, 2**32), st.integers(8, 40))
def test_a_restored_one_goes_on_as_the_first_would_have(seed: int, most: int) -> None:
    rng = random.Random(seed)
    settings = dataclasses.replace(SETTINGS, max_blocks=most)
    cache = Cache(rng)
    one = make(settings)
    one.apply([cache.step() for _ in range(40)] + [stored(TOKENS, extra=[None, [["image", 1]], None, None])], now=0)
    other = EngineBlocks.restore(one.dump(), root=root, block_size=SIZE, settings=settings)
    assert len(one) == len(other)
    assert sum(hashes.size for hashes in other.take_changes().gained) >= len(other)
    one.take_changes()
    for _ in range(5):
        events = [cache.step() for _ in range(10)] + [stored(LONGER, first=4)]
        for blocks in (one, other):
            blocks.apply(events, now=1)
        assert changes_equal(one.take_changes(), other.take_changes())


@given(st.integers(0, 2**32), st.integers(4, 40), st.integers(0, 4))
def test_memory_is_bounded_whatever_comes(seed: int, most: int, orphans: int) -> None:
    rng = random.Random(seed)
    blocks = make(dataclasses.replace(SETTINGS, max_blocks=most, max_orphans=orphans))
    told = Told(blocks)
    for moment in range(60):
        tokens = [rng.randrange(6)] * 4 * rng.randint(1, 6)
        size = SIZE * rng.choice([1, 1, 2, 3])
        tokens = tokens[: max(size, len(tokens) // size * size)]
        tokens += [7] * (-len(tokens) % size)
        event = stored(tokens, first=rng.randrange(len(tokens) // size), size=size, medium=rng.choice(["GPU", "CPU"]))
        blocks.apply([event, BlockRemoved(list(event.block_hashes[: rng.randrange(3)]), "GPU")], now=moment)
        near, far = told.look()
        assert len(near | far) == len(blocks) <= most
        assert len(blocks._entries.index) <= most
        assert len(blocks._entries.own) <= 2 * most + _GROWTH
        assert len(blocks._orphans) <= orphans


@given(st.integers(0, 2**32), st.integers(1, 3))
def test_damaged_batches_never_break_what_follows_them(seed: int, times: int) -> None:
    rng = random.Random(seed)
    blocks = make()
    for payload, _ in itertools.islice(play(seed), 20):
        damaged = bytearray(payload)
        for _ in range(times):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        with contextlib.suppress(PayloadError, IncompatibleBlockSize):
            blocks.apply(decode_batch(bytes(damaged)).events, now=1)
        blocks.expire(1)
    blocks.apply([AllBlocksCleared(), stored(TOKENS)], now=2)
    changes = blocks.take_changes()
    assert set(changes.gained[NEAR].tolist()) == set(ours(TOKENS))
    assert not len(changes.lost[NEAR])
