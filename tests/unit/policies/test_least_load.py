from extproc.policies.base import Reason
from extproc.policies.least_load import LeastLoad
from extproc.shm.worker_table import Engine
from tests.support.fleets import Shared, candidates, prompt, request_with


def order_of(shared: Shared, count: int = 2) -> list[str]:
    choice = LeastLoad(shared.context()).choose(request_with(), candidates(count))
    assert choice.reason is Reason.LEAST_LOAD
    return [worker.id for worker in choice.workers]


def tell(shared: Shared, slot: int, *, ago: float = 0.0, **numbers: float) -> None:
    for name, number in numbers.items():
        shared.table.engines[slot, Engine[name]] = number
    shared.table.engines[slot, Engine.SCRAPED_AT] = shared.clock() - ago


def test_the_lowest_wait_is_first_and_the_next_lowest_are_its_fall_backs() -> None:
    shared = Shared()
    for slot, tokens in enumerate((4000, 1000, 3000, 2000)):
        shared.table.column(0).add(slot, requests=1, prefill_tokens=tokens)
    assert order_of(shared, 4) == ["w1", "w3", "w2"]


def test_tokens_in_work_weigh_more_than_many_short_requests() -> None:
    shared = Shared()
    shared.table.column(0).add(0, requests=1, prefill_tokens=8000)
    shared.table.column(0).add(1, requests=20)
    assert order_of(shared) == ["w1", "w0"]


def test_requests_count_where_tokens_are_equal() -> None:
    shared = Shared()
    shared.table.column(0).add(0, requests=2, prefill_tokens=500)
    shared.table.column(0).add(1, requests=1, prefill_tokens=500)
    assert order_of(shared) == ["w1", "w0"]


def test_each_worker_is_taken_at_its_own_rate() -> None:
    shared = Shared()
    tell(shared, 0, PREFILL_RATE=20_000)
    tell(shared, 1, PREFILL_RATE=2000)
    shared.table.column(0).add(0, prefill_tokens=8000)
    shared.table.column(0).add(1, prefill_tokens=4000)
    assert order_of(shared) == ["w0", "w1"]


def test_a_half_full_cache_weighs_as_much_as_1200_tokens_at_8000_a_second() -> None:
    """The weight is 0.15 s times usage over what is free."""
    for tokens, first in ((1150, "w1"), (1250, "w0")):
        shared = Shared()
        tell(shared, 0, KV_USAGE=0.5)
        shared.table.column(0).add(1, prefill_tokens=tokens)
        assert order_of(shared)[0] == first


def test_a_full_cache_is_avoided_but_not_by_what_was_told_long_ago() -> None:
    for ago, first in ((1.0, "w1"), (60.0, "w0")):
        shared = Shared()
        tell(shared, 0, KV_USAGE=1.0, ago=ago)
        shared.table.column(0).add(1, prefill_tokens=80_000)
        assert order_of(shared)[0] == first


def test_a_worker_without_a_free_seat_waits_for_one() -> None:
    shared = Shared()
    tell(shared, 0, SEATS=2)
    tell(shared, 1, SEATS=8)
    shared.table.column(0).add(0, requests=2)
    shared.table.column(0).add(1, requests=4)
    assert order_of(shared) == ["w1", "w0"]


def test_what_all_processes_have_in_flight_counts_until_it_ends() -> None:
    shared, everyone = Shared(), candidates(2)
    policies = [LeastLoad(shared.context(process_slot=slot)) for slot in range(2)]
    accounts = [shared.accounts(process_slot=slot) for slot in range(2)]
    request = request_with(prompt(800))
    shared.table.column(2).add(1, prefill_tokens=400)
    choice = policies[0].choose(request, everyone)
    assert choice.workers[0].id == "w0"
    flight = accounts[0].start(request, choice, record=False)
    assert policies[1].choose(request, everyone).workers[0].id == "w1"
    accounts[0].finish(flight)
    assert policies[1].choose(request, everyone).workers[0].id == "w0"
