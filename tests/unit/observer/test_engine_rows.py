import logging

import numpy as np
import pytest

from extproc.config.models import ModelSpec
from extproc.fleet.load.engine_load import EngineLoad
from extproc.observer.engine_rows import LOOKS_AT_OTHERS, EngineRows, NoEvents
from extproc.shm.layout import Quantity
from extproc.shm.worker_table import Engine, Outcome
from tests.support.fleets import Shared, prompt, worker

ONE = worker(1)
PROMPT = prompt(160)


class Bench:
    """The rows of worker 1, which holds a prompt of ten blocks."""

    def __init__(self, *models: ModelSpec) -> None:
        self.shared = Shared()
        self.rows = EngineRows(
            table=self.shared.table,
            prefixes=self.shared.prefixes,
            events=NoEvents(),
            worker_of=lambda key: ONE if key == ONE.key else None,
            models=lambda: models,
            clock=self.shared.clock,
        )
        self.shared.prefixes.record(PROMPT.block_hashes, ONE.slot)
        self.shared.table.column(0).note_sent(ONE.slot, tokens=160, blocks=10)

    @property
    def held(self) -> float:
        return float(self.shared.prefixes.match(PROMPT.block_hashes, np.array([ONE.slot]))[0])

    def number(self, number: Engine) -> float:
        return float(self.shared.table.engines[ONE.slot, number])


def load(**numbers: float) -> EngineLoad:
    return EngineLoad(**{"running": 0, "prefix_queries": 100.0} | numbers)  # type: ignore[arg-type]


def test_a_reading_is_there_for_all_processes_with_its_time() -> None:
    bench = Bench()
    bench.rows.take(ONE.key, load(running=3, waiting=2, kv_usage=0.5, num_gpu_blocks=1000, block_size=16))
    numbers = (Engine.RUNNING, Engine.WAITING, Engine.KV_USAGE, Engine.NUM_BLOCKS, Engine.BLOCK_SIZE)
    assert [bench.number(number) for number in numbers] == [3, 2, 0.5, 1000, 16]
    assert bench.number(Engine.SCRAPED_AT) == bench.shared.clock()


def test_a_reading_of_a_worker_that_is_gone_is_ignored() -> None:
    bench = Bench()
    bench.rows.take(worker(2).key, load(running=9))
    assert not bench.shared.table.engines.any()


def test_requests_that_are_not_ours_count_once_several_readings_show_them() -> None:
    bench = Bench()
    bench.shared.table.column(0).add(ONE.slot, requests=2)
    seen = []
    for running in (7, 5, 6, 2):
        bench.rows.take(ONE.key, load(running=running))
        seen.append(bench.number(Engine.ELSEWHERE))
    assert LOOKS_AT_OTHERS == 3
    assert seen == [0, 0, 3, 0]


def test_a_failed_reading_leaves_the_last_one_to_grow_old() -> None:
    bench = Bench()
    for _ in range(LOOKS_AT_OTHERS):
        bench.rows.take(ONE.key, load(running=4))
    read_at = bench.shared.clock()
    bench.shared.clock.advance(1)
    bench.rows.take(ONE.key, None)
    assert (bench.number(Engine.RUNNING), bench.number(Engine.SCRAPED_AT), bench.number(Engine.ELSEWHERE)) == (
        4,
        read_at,
        0,
    )


def test_an_engine_whose_counters_fall_has_an_empty_cache() -> None:
    bench = Bench()
    bench.rows.take(ONE.key, load(prefix_queries=100))
    assert bench.held == 10
    bench.rows.take(ONE.key, load(prefix_queries=5))
    assert (bench.held, bench.number(Engine.RECORDED_BEFORE)) == (0, 10)


def test_a_worker_that_recovers_keeps_its_cache_if_its_counters_would_tell() -> None:
    bench = Bench()
    bench.rows.take(ONE.key, load(prefix_queries=100))
    bench.rows.recovered(ONE)
    assert bench.held == 10


def test_a_worker_that_recovers_and_tells_nothing_is_taken_to_be_empty() -> None:
    bench = Bench()
    bench.rows.recovered(ONE)
    assert bench.held == 0


def test_whoever_gets_a_slot_starts_with_nothing() -> None:
    bench = Bench()
    bench.rows.take(ONE.key, load(running=3))
    bench.shared.table.outcomes[ONE.slot, Outcome.OPEN_UNTIL] = 5
    bench.rows.placed(ONE)
    assert (bench.held, bench.number(Engine.RUNNING)) == (0, 0)
    assert bench.shared.table.outcomes[ONE.slot, Outcome.OPEN_UNTIL] == 0
    assert bench.shared.table.totals(Quantity.RECORDED_BLOCKS)[ONE.slot] == bench.number(Engine.RECORDED_BEFORE)


def test_a_worker_that_goes_holds_nothing_any_more() -> None:
    bench = Bench()
    bench.rows.gone(ONE)
    assert bench.held == 0


def test_another_block_size_than_the_models_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(ModelSpec(name="m"))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            bench.rows.take(ONE.key, load(block_size=32))
    assert [record.getMessage() for record in caplog.records] == [
        "Worker w1 caches in blocks of 32 tokens, but models.m.block_size is 16: matches are rounded to the latter"
    ]


def test_the_seats_of_an_engine_are_what_it_runs_while_others_wait() -> None:
    bench = Bench()
    assert seats_after(bench, (4, 1)) == 0, "a few wait for the next step in any engine"
    assert seats_after(bench, (4, 3)) == 0, "a prompt may hold them up for once"
    assert seats_after(bench, (4, 9)) == 4
    assert seats_after(bench, (3, 0), (0, 0)) == 4, "they stay when it has less to do"
    assert seats_after(bench, (6, 2), (6, 2)) == 6


def test_requests_that_are_let_in_one_after_the_other_do_not_show_seats() -> None:
    assert seats_after(Bench(), (1, 9), (2, 8), (3, 7), (6, 4)) == 0


def test_an_engine_that_runs_more_than_its_seats_had_none() -> None:
    assert seats_after(Bench(), (4, 9), (4, 9), (5, 0)) == 0


def test_an_engine_that_runs_nothing_has_no_seats() -> None:
    assert seats_after(Bench(), (0, 9), (0, 9)) == 0


def seats_after(bench: Bench, *readings: tuple[int, int]) -> float:
    """The seats that an engine is thought to have after readings of its running and waiting requests."""
    for running, waiting in readings:
        bench.rows.take(ONE.key, load(running=running, waiting=waiting))
    return bench.number(Engine.SEATS)


def turned_over(computed: float, prefix_queries: float = 100.0) -> EngineLoad:
    """A reading of an engine with room for 1,600 tokens."""
    return load(num_gpu_blocks=100, block_size=16, computed_tokens=computed, prefix_queries=prefix_queries)


def test_what_was_sent_before_an_engine_turned_its_cache_over_is_not_held_any_more() -> None:
    bench = Bench()
    for secs, computed in ((10, 0.0), (20, 1000.0), (30, 1599.0)):
        bench.shared.clock.now = 1000.0 + secs
        bench.rows.take(ONE.key, turned_over(computed))
        assert (bench.number(Engine.CACHED_SINCE), bench.held) == (0, 10)
    bench.shared.clock.now = 1040.0
    bench.rows.take(ONE.key, turned_over(2600.0))
    assert (bench.number(Engine.CACHED_SINCE), bench.held) == (1020, 0)


def test_an_engine_that_is_started_anew_keeps_all_that_it_is_sent_from_then_on() -> None:
    bench = Bench()
    for computed in (0.0, 1600.0):
        bench.rows.take(ONE.key, turned_over(computed))
        bench.shared.clock.advance(10)
    assert bench.number(Engine.CACHED_SINCE) == 1000
    bench.rows.take(ONE.key, turned_over(10.0, prefix_queries=5))
    bench.shared.prefixes.record(PROMPT.block_hashes, ONE.slot)
    bench.shared.clock.advance(10)
    bench.rows.take(ONE.key, turned_over(1600.0, prefix_queries=50))
    assert (bench.number(Engine.CACHED_SINCE), bench.held) == (0, 10)


def test_an_engine_without_such_counters_keeps_everything() -> None:
    bench = Bench()
    for _ in range(5):
        bench.rows.take(ONE.key, load(num_gpu_blocks=100, block_size=16))
        bench.shared.clock.advance(1000)
    assert (bench.number(Engine.CACHED_SINCE), bench.held) == (0, 10)
