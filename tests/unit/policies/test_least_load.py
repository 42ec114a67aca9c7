from extproc.policies.base import Choice, Reason
from extproc.policies.least_load import LeastLoad
from extproc.shm.worker_table import Engine, Outcome
from tests.support.fleets import Shared, candidates, prompt, request_with, worker


class Bench:
    """The policy, over three workers whose loads are set."""

    def __init__(self) -> None:
        self.shared = Shared()
        self.column = self.shared.table.column(1)
        self.policy = LeastLoad(self.shared.context())

    def order(self) -> list[str]:
        choice = self.policy.choose(request_with(), candidates(3))
        assert choice.reason is Reason.LEAST_LOAD
        return [worker.id for worker in choice.workers]


def test_the_least_busy_with_prompts_wins_and_the_next_least_are_the_fall_backs() -> None:
    bench = Bench()
    for slot, secs in ((0, 0.5), (1, 0.1), (2, 0.3)):
        bench.column.add(slot, requests=1)
        bench.shared.busy(slot, secs)
    assert bench.order() == ["w1", "w2", "w0"]


def test_requests_decide_between_equal_prompts() -> None:
    bench = Bench()
    for slot, requests in ((0, 3), (1, 2), (2, 1)):
        bench.column.add(slot, requests=requests)
    assert bench.order() == ["w2", "w1", "w0"]


def test_tokens_weigh_by_the_time_they_take_the_worker() -> None:
    bench = Bench()
    for slot, (tokens, rate) in enumerate(((4000, 2_000), (9000, 90_000), (4000, 20_000))):
        bench.shared.table.outcomes[slot, Outcome.PREFILL_RATE] = rate
        choice = Choice((worker(slot),), Reason.LEAST_LOAD)
        bench.shared.accounts().start(request_with(prompt(tokens)), choice, record=False)
    assert bench.order() == ["w1", "w2", "w0"]


def test_a_worker_whose_cache_is_full_comes_last() -> None:
    bench = Bench()
    bench.shared.table.engines[0, [Engine.KV_USAGE, Engine.SCRAPED_AT]] = 0.99, bench.shared.clock.now
    bench.shared.table.engines[1, [Engine.KV_USAGE, Engine.SCRAPED_AT]] = 0.3, bench.shared.clock.now
    bench.column.add(2, requests=1)
    bench.shared.busy(2, 0.25)
    assert bench.order() == ["w1", "w2", "w0"]


def test_a_queue_for_a_seat_counts() -> None:
    bench = Bench()
    for slot in range(3):
        bench.shared.table.engines[slot, Engine.SEATS] = slot + 1
        bench.shared.table.outcomes[slot, Outcome.SEAT_SECS] = 1.0
        bench.column.add(slot, requests=2)
    assert bench.order() == ["w2", "w1", "w0"]


def test_loads_of_all_processes_count() -> None:
    bench = Bench()
    bench.shared.table.column(0).add(0, requests=2)
    bench.shared.table.column(3).add(0, requests=2)
    bench.column.add(1, requests=3)
    assert bench.order() == ["w2", "w1", "w0"]
