"""What every built-in load promises, whatever it models."""

import itertools
import weakref
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from extproc.config.catalogue import fields_of
from extproc.errors import ConfigurationError
from extproc.simulation.loads.generators.base import MAX_REQUESTS, BuiltInLoad
from extproc.simulation.loads.generators.registry import LOADS
from extproc.simulation.loads.load import BLOCK_TOKENS, Load, Session, Turn

every_load = pytest.mark.parametrize("kind", LOADS.values(), ids=LOADS)


def turns_of(sessions: Iterator[Session]) -> Iterator[Turn]:
    return itertools.chain.from_iterable(session.turns for session in sessions)


def content(load: Load) -> list[object]:
    return [
        (session.starts_at, session.key, turn.prompt_tokens, turn.answer_tokens, turn.think_secs, turn.blocks.tobytes())
        for session in load.sessions()
        for turn in session.turns
    ]


@every_load
def test_the_same_seed_gives_the_same_load_to_the_last_bit(kind: type[BuiltInLoad]) -> None:
    load = kind(requests=3000, seed=5)
    assert content(load) == content(load) == content(kind(requests=3000, seed=5))


@every_load
def test_another_seed_gives_another_load(kind: type[BuiltInLoad]) -> None:
    one, other = (content(kind(requests=100, seed=seed)) for seed in (5, 6))
    assert not set(one) & set(other)


@every_load
@pytest.mark.parametrize("requests", [1, 2, 1023, 5000])
def test_there_are_as_many_requests_as_asked_for(kind: type[BuiltInLoad], requests: int) -> None:
    load = kind(requests=requests)
    assert load.requests == requests
    assert sum(1 for _ in turns_of(load.sessions())) == requests


@every_load
def test_sessions_start_in_order_within_the_span_of_the_load(kind: type[BuiltInLoad]) -> None:
    load = kind(requests=5000, rate=25.0)
    starts = [session.starts_at for session in load.sessions()]
    assert load.secs == 200.0
    assert starts == sorted(starts)
    assert 0.0 <= starts[0] < 40.0
    assert 160.0 < starts[-1] <= 200.0


@every_load
def test_requests_come_at_the_rate_asked_for_in_each_part_of_the_load(kind: type[BuiltInLoad]) -> None:
    """Counted at the starts of their sessions; a tenth of the load has about a tenth of them."""
    load = kind(requests=40_000, rate=10.0)
    parts = Counter[int]()
    for session in load.sessions():
        parts[int(session.starts_at / load.secs * 10)] += len(session.turns)
    assert sorted(parts) == list(range(10))
    assert 2800 < min(parts.values()) <= max(parts.values()) < 5200


@every_load
def test_every_turn_is_one_that_an_engine_can_be_asked(kind: type[BuiltInLoad]) -> None:
    for session in kind(requests=3000).sessions():
        assert session.key
        assert session.turns
        for turn in session.turns:
            assert turn.prompt_tokens >= 1
            assert turn.answer_tokens >= 1
            assert turn.think_secs >= 0.0
            assert turn.blocks.dtype == np.uint64
            assert not turn.blocks.flags.writeable
            assert len(turn.blocks) == -(-turn.prompt_tokens // BLOCK_TOKENS)


@every_load
def test_a_hash_stands_for_all_that_is_before_it(kind: type[BuiltInLoad]) -> None:
    """Wherever a hash occurs, it is at the same place and follows the same hash."""
    before: dict[int, tuple[int, int]] = {}
    for turn in turns_of(kind(requests=3000).sessions()):
        last = 0
        for place, block in enumerate(turn.blocks.tolist()):
            assert before.setdefault(block, (place, last)) == (place, last)
            last = block


@every_load
def test_some_of_a_prompt_was_asked_before_and_some_is_new(kind: type[BuiltInLoad]) -> None:
    seen: set[int] = set()
    blocks = known = 0
    for turn in turns_of(kind(requests=3000).sessions()):
        hashes = turn.blocks.tolist()
        assert hashes[-1] not in seen
        blocks += len(hashes)
        known += sum(block in seen for block in hashes)
        seen.update(hashes)
    assert 0.05 < known / blocks < 0.98


@every_load
def test_hashes_are_spread_over_all_bits(kind: type[BuiltInLoad]) -> None:
    hashes = np.unique(np.concatenate([turn.blocks for turn in turns_of(kind(requests=5000).sessions())]))
    bits = np.unpackbits(hashes.view(np.uint8)).reshape(-1, 64).mean(axis=0)
    assert np.all(np.abs(bits - 0.5) < 0.05)


@every_load
def test_sessions_are_made_as_they_are_asked_for_and_not_kept(kind: type[BuiltInLoad]) -> None:
    sessions = kind(requests=30_000).sessions()
    early = [weakref.ref(turn.blocks) for turn in turns_of(itertools.islice(sessions, 10))]
    next(itertools.islice(sessions, 100, None))
    assert not any(blocks() is not None for blocks in early)


@every_load
def test_every_parameter_is_documented_and_has_bounds(kind: type[BuiltInLoad]) -> None:
    assert {"requests", "rate", "seed"} <= set(fields_of(kind))
    for entry in fields_of(kind).values():
        assert entry.declaration.help.endswith(".")
        assert entry.declaration.low is not None
        assert entry.path == "seed" or entry.declaration.high is not None


@every_load
def test_parameters_out_of_bounds_are_refused_together(kind: type[BuiltInLoad]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        kind(requests=MAX_REQUESTS + 1, rate=float("nan"), seed=-1)
    assert caught.value.faults == [
        f"{kind.name}.requests: must be at most 10,000,000 requests, not 10000001",
        f"{kind.name}.rate: must be a number, not nan",
        f"{kind.name}.seed: must be at least 0, not -1",
    ]


@every_load
def test_a_load_does_not_take_longer_than_a_simulation_may(kind: type[BuiltInLoad]) -> None:
    with pytest.raises(ConfigurationError, match=rf"{kind.name}\.rate: is so low that 1,000 requests take more than"):
        kind(requests=1000, rate=1e-6)


@every_load
@pytest.mark.parametrize("end", ["low", "high"])
def test_all_parameters_of_a_load_may_be_at_their_bounds_together(kind: type[BuiltInLoad], end: str) -> None:
    own = {name: entry for name, entry in fields_of(kind).items() if name not in ("requests", "rate", "seed")}
    load = kind(requests=300, **{name: entry.type(getattr(entry.declaration, end)) for name, entry in own.items()})
    assert sum(1 for _ in turns_of(load.sessions())) == 300
