from collections import Counter
from typing import Literal

import pytest

from extproc.config.policies import PolicyParameters, PowerOfTwoSettings
from extproc.policies.base import Reason
from extproc.policies.power_of_two import PowerOfTwo
from extproc.shm.worker_table import Engine
from tests.support.fleets import Shared, candidates, request_with

Metric = Literal["expected_wait", "requests", "kv_usage"]


class Bench:
    """The policy, over workers whose loads are set."""

    def __init__(self, metric: Metric = "expected_wait", *, max_endpoints: int = 3) -> None:
        self.shared = Shared()
        self.column = self.shared.table.column(1)
        parameters = PolicyParameters(power_of_two=PowerOfTwoSettings(load_metric=metric))
        self.policy = PowerOfTwo(self.shared.context(parameters=parameters, max_endpoints=max_endpoints))

    def scraped(self, slot: int, *, kv_usage: float, ago: float = 0.0) -> None:
        row = self.shared.table.engines[slot]
        row[Engine.KV_USAGE], row[Engine.SCRAPED_AT] = kv_usage, self.shared.clock.now - ago

    def first(self, count: int = 2) -> str:
        return self.policy.choose(request_with(), candidates(count)).workers[0].id

    def always(self, count: int = 2) -> set[str]:
        return {self.first(count) for _ in range(60)}


@pytest.mark.parametrize("metric", ["expected_wait", "requests"])
def test_the_one_with_fewer_requests_wins(metric: Metric) -> None:
    bench = Bench(metric)
    bench.column.add(0, requests=1)
    assert bench.always() == {"w1"}


def test_the_expected_wait_sees_prompts_that_the_number_of_requests_does_not() -> None:
    for metric, winner in (("expected_wait", "w1"), ("requests", "w0")):
        bench = Bench(metric)  # type: ignore[arg-type]
        bench.column.add(0, requests=1)
        bench.column.add(1, requests=5)
        bench.shared.busy(0, 6.0)
        assert bench.always() == {winner}


def test_the_emptier_kv_cache_wins() -> None:
    bench = Bench("kv_usage")
    bench.scraped(0, kv_usage=0.4)
    bench.scraped(1, kv_usage=0.5)
    bench.column.add(0, requests=9)
    assert bench.always() == {"w0"}


def test_an_engine_that_is_silent_does_not_pass_for_an_empty_one() -> None:
    bench = Bench("kv_usage")
    bench.scraped(0, kv_usage=0.9)
    bench.scraped(1, kv_usage=0.0, ago=6.0)
    bench.column.add(1, requests=9)
    assert bench.always() == {"w0"}, "by requests instead"


def test_the_most_loaded_of_all_is_never_chosen_and_the_least_loaded_most_often() -> None:
    """Of five, the one with rank r from the top wins all pairs but those with the 4 - r below it: chi-square, 3 df."""
    bench, draws = Bench("requests"), 5000
    for slot in range(5):
        bench.column.add(slot, requests=slot)
    counts = Counter(bench.first(5) for _ in range(draws))
    assert counts["w4"] == 0
    expected = {f"w{rank}": draws * (4 - rank) / 10 for rank in range(4)}
    assert sum((counts[worker] - number) ** 2 / number for worker, number in expected.items()) < 16.3


def test_the_other_of_the_two_is_the_first_fall_back() -> None:
    bench = Bench("requests")
    bench.column.add(0, requests=5)
    for _ in range(20):
        choice = bench.policy.choose(request_with(), candidates(2))
        assert [worker.id for worker in choice.workers] == ["w1", "w0"]
        assert choice.reason is Reason.LESS_LOADED_OF_TWO


def test_two_are_compared_where_only_one_is_asked_for() -> None:
    bench = Bench("requests", max_endpoints=1)
    bench.column.add(0, requests=1)
    assert bench.always() == {"w1"}
