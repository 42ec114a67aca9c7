"""What is believed of an engine's cache: by its batches, by its stream, and by its counters."""

from collections.abc import Callable

import msgspec
import pytest

from extproc.fleet.load.engine_load import EngineLoad
from extproc.kvevents.engine_cache import Doubt, EngineCache
from extproc.kvevents.entries import NEAR
from extproc.kvevents.stream import Problem
from tests.support.engine_events import LONGER, SIZE, TOKENS, make, ours, payload, removed, stored
from tests.support.fleets import Clock

SILENT_SECS = 10.0


class Bench:
    """The cache of rank 0, of which everything is known from its beginning."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(100.0)
        self.told: list[str] = []
        self.lags: list[float] = []
        self.calls = 0
        self.cache = EngineCache(
            blocks=make(),
            rank=0,
            clock=self.clock,
            wall_clock=lambda: 1e9 + 2.0,
            on_doubt=lambda what, detail: self.told.append(f"{what}: {detail}"),
            on_lag=self.lags.append,
            on_batches=self.call,
        )
        self.cache.reset(complete=True)

    def call(self) -> None:
        self.calls += 1

    @property
    def held(self) -> set[int]:
        return set(self.cache.blocks._entries.held[NEAR])

    @property
    def doubts(self) -> list[str]:
        return [line.partition(":")[0] for line in self.told]

    def compare(self, computed: float, requests: float = 0.0, *, after: float = 0.0) -> None:
        self.clock.advance(after)
        load = EngineLoad(running=0, block_size=SIZE, computed_tokens=computed, first_tokens=requests)
        self.cache.compare(load, silent_after_secs=SILENT_SECS)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def spoil_payload(bench: Bench) -> None:
    bench.cache.batches([b"\xc1 no batch"])


def spoil_block_size(bench: Bench) -> None:
    bench.cache.batches([payload(stored(list(range(6)), size=SIZE + 2))])


def spoil_rank(bench: Bench) -> None:
    bench.cache.batches([payload(stored(LONGER), rank=1)])


SPOILT: tuple[tuple[Callable[[Bench], None], Doubt], ...] = (
    (spoil_payload, Doubt.PAYLOAD),
    (spoil_block_size, Doubt.BLOCK_SIZE),
    (spoil_rank, Doubt.RANK),
)


def test_batches_from_the_beginning_on_make_a_cache_that_is_known(bench: Bench) -> None:
    calls = bench.calls
    event = stored(TOKENS)
    bench.cache.batches([payload(event), payload(removed(event, 3))])
    assert bench.held == set(ours(TOKENS)[:3])
    assert bench.cache.precise
    assert (bench.cache.events, bench.calls, bench.told) == (2, calls + 1, [])


def test_the_lag_is_that_of_each_batch_by_the_engines_clock_and_never_negative(bench: Bench) -> None:
    bench.cache.batches([payload(seconds=1e9), payload(seconds=1e9 + 1.5), payload(seconds=1e9 + 60)])
    assert bench.lags == [2.0, 0.5, 0.0]


@pytest.mark.parametrize(("spoil", "doubt"), SPOILT)
def test_what_does_not_fit_is_told_once_and_nothing_is_believed_until_the_stream_begins_anew(
    bench: Bench, spoil: Callable[[Bench], None], doubt: Doubt
) -> None:
    bench.cache.batches([payload(stored(TOKENS))])
    spoil(bench)
    assert bench.doubts == [doubt]
    assert (bench.cache.precise, bench.cache.complete, bench.held) == (False, False, set())

    spoil(bench)
    assert bench.doubts == [doubt]

    bench.clock.advance(1.0)
    bench.cache.turned_over(bench.clock())
    assert not bench.cache.precise

    bench.cache.reset(complete=True)
    bench.cache.batches([payload(stored(TOKENS))])
    assert (bench.cache.precise, bench.held) == (True, set(ours(TOKENS)))

    spoil(bench)
    assert bench.doubts == [doubt, doubt]


def test_what_follows_a_batch_that_cannot_be_read_is_still_known_though_not_believed_to_be_all(bench: Bench) -> None:
    bench.cache.batches([payload(stored(TOKENS)), b"", payload(stored(LONGER))])
    assert (bench.doubts, bench.cache.precise) == ([Doubt.PAYLOAD], False)
    assert bench.held <= set(ours(LONGER))
    bench.cache.batches([payload(stored(LONGER))])
    assert bench.held == set(ours(LONGER))


def test_batches_of_an_engine_that_tells_no_rank_are_taken(bench: Bench) -> None:
    bench.cache.batches([payload(stored(TOKENS), rank=None)])
    assert (bench.held, bench.told) == (set(ours(TOKENS)), [])


def test_a_beginning_of_which_nothing_is_known_is_complete_once_the_cache_has_turned_over_since(bench: Bench) -> None:
    bench.cache.batches([payload(stored(LONGER))])
    bench.clock.advance(5.0)
    bench.cache.reset(complete=False)
    bench.cache.batches([payload(stored(TOKENS))])
    assert (bench.cache.precise, bench.held) == (False, set(ours(TOKENS)))

    for too_early in (0.0, bench.clock() - 1.0, bench.clock()):
        bench.cache.turned_over(too_early)
        assert not bench.cache.precise
    bench.clock.advance(1.0)
    bench.cache.turned_over(bench.clock())
    assert (bench.cache.precise, bench.held) == (True, set(ours(TOKENS)))


def test_a_new_beginning_says_that_what_was_told_before_is_to_be_forgotten(bench: Bench) -> None:
    bench.cache.batches([payload(stored(TOKENS))])
    bench.cache.take_changes()
    calls = bench.calls
    bench.cache.reset(complete=True)
    changes = bench.cache.take_changes()
    assert (changes.cleared, changes.gained[NEAR].size, bench.calls) == (True, 0, calls + 1)


def test_taking_changes_rejects_events_that_have_waited_too_long_for_the_block_before(bench: Bench) -> None:
    bench.cache.batches([payload(stored(LONGER, first=4))])
    bench.clock.advance(60.0)
    bench.cache.take_changes()
    assert bench.cache.blocks.orphans_rejected == 1


def test_a_problem_of_the_stream_is_passed_on(bench: Bench) -> None:
    bench.cache.problem(Problem.GAP, "3 batches")
    assert (bench.told, bench.cache.doubts) == (["gap: 3 batches"], set())


def test_predictions_that_do_not_come_true_end_all_belief_whatever_the_stream_says(bench: Bench) -> None:
    bench.cache.batches([payload(stored(TOKENS))])
    bench.cache.distrust("0.2")
    assert (bench.told, bench.cache.precise, bench.held) == (["imprecise: 0.2"], False, set())
    bench.cache.reset(complete=True)
    assert not bench.cache.precise


def test_an_engine_that_computes_and_says_nothing_is_silent_until_it_speaks(bench: Bench) -> None:
    bench.cache.batches([payload(stored(TOKENS))])
    bench.compare(0)
    bench.compare(10 * SIZE, after=1.0)
    bench.compare(20 * SIZE, after=SILENT_SECS - 2.0)
    assert bench.cache.precise
    bench.compare(20 * SIZE, after=2.0)
    assert (bench.doubts, bench.cache.precise) == ([Doubt.SILENT], False)
    bench.compare(90 * SIZE, after=SILENT_SECS)
    assert bench.doubts == [Doubt.SILENT]

    # The next batch follows the last, so nothing was lost.
    bench.cache.batches([payload(stored(LONGER, first=4))])
    assert (bench.cache.precise, bench.held) == (True, set(ours(LONGER)))
    bench.compare(100 * SIZE, after=SILENT_SECS)
    assert bench.cache.precise


def test_an_engine_that_announces_now_and_then_is_not_silent(bench: Bench) -> None:
    for number in range(10):
        bench.compare(100 * SIZE * number, after=SILENT_SECS)
        bench.cache.batches([payload()])
    assert bench.told == []


def test_tokens_that_may_not_fill_a_block_need_not_be_announced(bench: Bench) -> None:
    bench.compare(0, 0)
    for requests in range(1, 50):
        bench.compare(requests * (SIZE - 1), requests, after=SILENT_SECS)
    assert bench.told == []
    for requests in range(1, 50):
        bench.compare(49 * (SIZE - 1) + requests * (SIZE + 1), 49 + requests, after=SILENT_SECS)
    assert bench.doubts == [Doubt.SILENT]


def test_an_engine_that_idles_is_not_silent(bench: Bench) -> None:
    for _ in range(5):
        bench.compare(1000, 10, after=SILENT_SECS)
    assert bench.told == []


def test_an_engine_that_counts_from_zero_again_is_watched_from_there(bench: Bench) -> None:
    bench.compare(1000)
    bench.compare(0, after=SILENT_SECS)
    bench.compare(SIZE, after=SILENT_SECS)
    assert bench.told == []
    bench.compare(10 * SIZE, after=1.0)
    bench.compare(10 * SIZE, after=SILENT_SECS)
    assert bench.doubts == [Doubt.SILENT]


@pytest.mark.parametrize("missing", ["computed_tokens", "first_tokens", "block_size"])
def test_without_its_counters_nobody_can_tell_whether_an_engine_is_silent(bench: Bench, missing: str) -> None:
    for computed in (0, 1000, 2000, 3000):
        load = EngineLoad(running=0, block_size=SIZE, computed_tokens=computed, first_tokens=0)
        without = msgspec.structs.replace(load, **{missing: 0 if missing == "block_size" else None})
        bench.cache.compare(without, silent_after_secs=SILENT_SECS)
        bench.clock.advance(SILENT_SECS)
    assert bench.told == []
