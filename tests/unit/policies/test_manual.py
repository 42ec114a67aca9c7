from collections import Counter
from functools import partial
from typing import Literal

import pytest

from extproc.config.policies import ManualSettings, PolicyParameters
from extproc.fleet.candidates import Candidates
from extproc.policies.base import Choice, Reason
from extproc.policies.manual import COUNT_EVERY_SECS, Manual
from tests.support.fleets import Shared, candidates, request_with
from tests.support.processes import forked

EVERYONE = candidates(4)
IDLE_SECS = 100


class Bench:
    """The policy in some processes that share a map."""

    def __init__(
        self,
        processes: int = 1,
        *,
        mode: Literal["random", "min_load", "min_group"] = "random",
        entries: int = 1024,
    ) -> None:
        self.shared = Shared(sticky_entries=entries)
        parameters = PolicyParameters(manual=ManualSettings(assignment_mode=mode, max_idle_secs=IDLE_SECS))
        self.policies = [
            Manual(self.shared.context(process_slot=slot, seed=slot, parameters=parameters))
            for slot in range(processes)
        ]

    def choose(
        self, key: str, among: Candidates = EVERYONE, *, process: int = 0, header: str = "x-extproc-routing-key"
    ) -> Choice:
        headers = {header: key} if key else {}
        return self.policies[process].choose(request_with(headers=headers), among)

    def first(self, key: str, among: Candidates = EVERYONE, *, process: int = 0) -> str:
        return self.choose(key, among, process=process).workers[0].id


def without(*ids: str) -> Candidates:
    return EVERYONE.only([at for at, worker in enumerate(EVERYONE) if worker.id not in ids])


def test_a_key_stays_with_the_worker_that_it_was_given() -> None:
    bench = Bench()
    given = {key: bench.choose(key) for key in map(str, range(50))}
    assert {choice.reason for choice in given.values()} == {Reason.STICKY_ASSIGNED}
    assert {choice.workers[0].id for choice in given.values()} == {"w0", "w1", "w2", "w3"}
    for key, before in given.items():
        again = bench.choose(key)
        assert (again.workers[0], again.reason) == (before.workers[0], Reason.STICKY)
        assert len(set(again.workers)) == 3


@pytest.mark.parametrize("header", ["x-extproc-routing-key", "x-smg-routing-key"])
def test_the_key_is_read_from_either_header(header: str) -> None:
    bench = Bench()
    assert bench.choose("a", header=header).reason is Reason.STICKY_ASSIGNED
    assert bench.choose("a").reason is Reason.STICKY


def test_a_request_without_a_key_is_given_a_worker_and_forgotten() -> None:
    bench = Bench()
    choices = [bench.choose("") for _ in range(50)]
    assert {choice.reason for choice in choices} == {Reason.NO_KEY}
    assert {choice.workers[0].id for choice in choices} == {"w0", "w1", "w2", "w3"}
    assert bench.shared.context().stickies.groups(0, now=1000, max_idle_secs=IDLE_SECS) == {}


def test_a_session_returns_when_its_worker_recovers() -> None:
    bench = Bench()
    first = bench.first("a")
    second = bench.first("a", without(first))
    assert second != first
    assert bench.first("a", without(first)) == second
    assert [bench.first("a") for _ in range(3)] == [first] * 3
    assert bench.choose("a").workers[1].id == second, "the other remembered one is the first fall-back"


def test_the_oldest_of_two_workers_is_dropped_for_a_third() -> None:
    bench = Bench()
    first = bench.first("a")
    second = bench.first("a", without(first))
    third = bench.first("a", without(first, second))
    assert bench.first("a") == second
    assert bench.first("a", without(second)) == third


def test_all_processes_know_where_a_key_was_sent() -> None:
    bench = Bench(4)
    for number in range(40):
        first = bench.first(str(number), process=number % 4)
        assert {bench.first(str(number), process=process) for process in range(4)} == {first}


def test_what_a_process_gave_outlives_it() -> None:
    bench = Bench()

    def give(key: str) -> bytes:
        return bench.first(key).encode()

    given = {key: forked(partial(give, key)).decode() for key in map(str, range(8))}
    assert {key: bench.choose(key).reason for key in given} == dict.fromkeys(given, Reason.STICKY)
    assert {key: bench.first(key) for key in given} == given


def test_a_key_that_is_not_used_is_forgotten_and_one_in_use_is_not() -> None:
    bench = Bench()
    for key in ("used", "idle"):
        bench.choose(key)
    for _ in range(3):
        bench.shared.clock.advance(IDLE_SECS)
        assert bench.choose("used").reason is Reason.STICKY
    assert bench.choose("idle").reason is Reason.STICKY_ASSIGNED
    bench.shared.clock.advance(IDLE_SECS + 1)
    assert bench.choose("used").reason is Reason.STICKY_ASSIGNED


def test_what_is_expired_does_not_come_back_as_a_second_worker() -> None:
    bench = Bench()
    first = bench.first("a")
    bench.shared.clock.advance(IDLE_SECS + 1)
    second = bench.first("a", without(first))
    assert bench.first("a") == second


def test_there_are_never_more_keys_than_entries_and_the_last_used_ones_stay() -> None:
    bench = Bench(entries=64)
    for number in range(1000):
        bench.shared.clock.advance(0.01)
        bench.choose(str(number))
    stickies = bench.shared.context().stickies
    known = [number for number in range(1000) if stickies.find(stickies.hash_of(str(number)))]
    assert 48 <= len(known) <= 64
    assert min(known) > 700


def test_new_keys_go_to_any_worker_alike() -> None:
    bench, draws = Bench(entries=8192), 2000
    counts = Counter(bench.first(str(number)) for number in range(draws))
    assert sum((count - draws / 4) ** 2 / (draws / 4) for count in counts.values()) < 16.3


def test_new_keys_go_to_the_worker_with_the_fewest_requests() -> None:
    bench = Bench(mode="min_load")
    column = bench.shared.table.column(1)
    for slot, requests in enumerate((2, 1, 0, 1)):
        column.add(slot, requests=requests)
    assert {bench.first(str(number)) for number in range(20)} == {"w2"}
    assert bench.choose("").workers[0].id == "w2"


@pytest.mark.parametrize("processes", [1, 4])
def test_new_keys_go_to_the_worker_that_was_given_the_fewest(processes: int) -> None:
    bench = Bench(processes, mode="min_group")
    counts: Counter[str] = Counter()
    for number in range(200):
        bench.shared.clock.advance(COUNT_EVERY_SECS / 20)
        counts[bench.first(str(number), process=number % processes)] += 1
    assert max(counts.values()) - min(counts.values()) <= 2 * processes
    assert counts.total() == 200


def test_keys_that_are_forgotten_do_not_count_as_given() -> None:
    bench = Bench(mode="min_group")
    for number in range(20):
        bench.first(f"old {number}", without("w3"))
    bench.shared.clock.advance(IDLE_SECS + 2)
    assert {bench.first(f"new {number}") for number in range(12)} == {"w0", "w1", "w2", "w3"}


@pytest.mark.parametrize(("processes", "most"), [(1, 1), (2, 5)])
def test_a_few_keys_in_a_map_for_many_are_spread_evenly(processes: int, most: int) -> None:
    """However slowly they come: in a large map they are hard to find again.

    Each process looks at parts of the map in its turn, so two of them know late of each other: of 400 runs 4 differ by
    more than 3, and one by 5.
    """
    bench = Bench(processes, mode="min_group", entries=1 << 18)
    counts: Counter[str] = Counter()
    for number in range(24):
        bench.shared.clock.advance(1.1 * COUNT_EVERY_SECS)
        counts[bench.first(str(number), process=number % processes)] += 1
    assert max(counts.values()) - min(counts.values()) <= most
