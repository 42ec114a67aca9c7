"""A view kept by events, against the block pool that the events are about."""

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.index.prefix_index import PrefixIndex
from extproc.simulation.cache_view import CacheView
from extproc.simulation.timeline import VirtualClock
from workers.engine.engine import Engine
from workers.engine.profile import load_profile
from workers.engine.request import Request

PROFILE = load_profile("h100-8b", kv_cache_tokens=16 * 40)


def chain(family: int, blocks: int) -> list[int]:
    mixed = random.Random(family)
    return [mixed.getrandbits(64) for _ in range(blocks)]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(16, 300), st.booleans()), min_size=1, max_size=40))
def test_the_view_holds_what_the_engine_holds(asked: list[tuple[int, int, bool]]) -> None:
    index = PrefixIndex(memory=memoryview(bytearray(1 << 16)), clock=VirtualClock())
    view = CacheView(index, workers=2)
    engine = Engine(PROFILE, keep_events=True)
    now = 0.0
    for family, tokens, wait in asked:
        request = Request(
            prompt_tokens=tokens,
            answer_tokens=4,
            hashes=chain(family, tokens // 16),
            on_first=lambda _at: None,
            on_end=lambda _at: None,
        )
        engine.add(request, now)
        while wait and engine.due < float("inf"):
            now = engine.due
            engine.advance()
        view.apply(1, engine.events)
        engine.events = []
    while engine.due < float("inf"):
        engine.advance()
    view.apply(1, engine.events)
    for family in range(6):
        hashes = chain(family, 300 // 16)
        depths = index.match(np.array(hashes, np.uint64), np.array([0, 1]))
        assert depths.tolist() == [0, engine.cached_tokens(hashes) // 16]
