import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.api.request import RoutingRequest
from extproc.config.policies import BucketSettings, PolicyParameters
from extproc.policies.base import Choice, Reason
from extproc.policies.bucket import Bucket
from tests.support.fleets import Shared, candidates, prompt, request_with

INTERVAL_SECS = 5.0
PROMPTS = {tokens: request_with(prompt(tokens)) for tokens in (1, 100, 1000)}


def of_length(tokens: int) -> RoutingRequest:
    """A request for a prompt of so many tokens, as far as its body tells."""
    return RoutingRequest(method="POST", path="/", headers={"content-length": str(4 * tokens)})


class Bench:
    """The policy in some processes that share their state and take turns."""

    def __init__(self, processes: int = 1, *, workers: int = 4, max_endpoints: int = 3) -> None:
        self.shared = Shared()
        parameters = PolicyParameters(bucket=BucketSettings(balance_abs_threshold=10))
        self.policies = [
            Bucket(
                self.shared.context(process_slot=slot, seed=slot, parameters=parameters, max_endpoints=max_endpoints)
            )
            for slot in range(processes)
        ]
        self.everyone = candidates(workers)
        self.column = self.shared.table.column(9)
        self.turn = 0

    def choose(self, tokens: int) -> Choice:
        self.turn += 1
        return self.policies[self.turn % len(self.policies)].choose(of_length(tokens), self.everyone)

    def range_of(self, tokens: int) -> str:
        choice = self.choose(tokens)
        assert choice.reason is Reason.LENGTH_RANGE
        return choice.workers[0].id

    def send(self, lengths: list[int]) -> Counter[str]:
        """Ask for prompts of these lengths; return the tokens that each worker would be sent."""
        tokens: Counter[str] = Counter()
        for length in lengths:
            tokens[self.range_of(length)] += length
        return tokens


def lengths(count: int, seed: int = 0) -> list[int]:
    """Many short prompts and some long ones, as they come."""
    rng = random.Random(seed)
    return [min(max(int(rng.lognormvariate(6, 1.3)), 1), 60_000) for _ in range(count)]


def test_ranges_make_sense_before_anything_was_seen() -> None:
    bench = Bench()
    assert bench.range_of(1) == bench.range_of(32) == "w0"
    assert bench.range_of(100_000) == bench.range_of(8192) == "w3"
    in_order = [bench.range_of(length) for length in (100, 1500, 3000, 5500, 8000)]
    assert in_order == sorted(in_order)
    assert set(in_order) == {"w0", "w1", "w2", "w3"}


def test_each_range_gets_about_the_same_tokens_once_lengths_are_learned() -> None:
    bench = Bench()
    bench.send(lengths(4000))
    bench.shared.clock.advance(INTERVAL_SECS)
    tokens = bench.send(lengths(4000, seed=1))
    mean = tokens.total() / 4
    assert all(0.85 * mean < sent < 1.15 * mean for sent in tokens.values())
    assert len(tokens) == 4


def test_shorter_prompts_go_to_workers_before_those_of_longer_ones() -> None:
    bench = Bench()
    bench.send(lengths(2000))
    bench.shared.clock.advance(INTERVAL_SECS)
    octaves = [bench.range_of(4**power) for power in range(1, 9)]
    assert octaves == sorted(octaves)


def test_prompts_of_one_length_are_shared_by_all() -> None:
    """Chi-square with 3 degrees of freedom; no border could part them."""
    bench = Bench()
    bench.send([1000] * 100)
    bench.shared.clock.advance(INTERVAL_SECS)
    tokens = bench.send([1000] * 2000)
    assert sum((sent - 500_000) ** 2 / 500_000 for sent in tokens.values()) < 16.3 * 1000
    assert bench.range_of(10) == "w0"
    assert bench.range_of(5000) == "w3"


def test_processes_learn_from_what_all_of_them_see() -> None:
    bench = Bench(4)
    bench.send([10, 10, 10, 4000] * 100)
    bench.shared.clock.advance(INTERVAL_SECS)
    assert {bench.range_of(3000) for _ in range(8)} == {"w0"}, "nearly all tokens are in longer prompts"
    assert {bench.range_of(6000) for _ in range(8)} == {"w3"}


def test_ranges_stay_until_the_interval_is_over() -> None:
    bench = Bench()
    bench.send([20] * 200)
    bench.shared.clock.advance(INTERVAL_SECS - 0.1)
    assert bench.range_of(30) == "w0"
    bench.shared.clock.advance(0.1)
    assert bench.range_of(30) == "w3"


def test_a_prompt_or_two_do_not_tip_the_ranges() -> None:
    """By themselves they would all be of one length, and be shared by all."""
    bench = Bench()
    bench.send(lengths(2000))
    for _ in range(5):
        bench.shared.clock.advance(INTERVAL_SECS)
        assert bench.range_of(30) == "w0"


def test_what_was_long_ago_does_not_count() -> None:
    bench = Bench()
    for length in (1000, 20):
        bench.send([length] * 100)
        bench.shared.clock.advance(INTERVAL_SECS)
    assert bench.range_of(1000) == "w3"


def test_the_worker_that_was_sent_least_is_chosen_when_tokens_are_out_of_balance() -> None:
    bench = Bench()
    for slot, tokens in enumerate((900, 1000, 990, 950)):
        bench.column.note_sent(slot, tokens=tokens, blocks=0)
    assert bench.range_of(1) == "w0"
    bench.column.note_sent(0, tokens=2000, blocks=0)
    bench.column.note_sent(2, tokens=500, blocks=0)
    bench.column.note_sent(3, tokens=600, blocks=0)
    choice = bench.choose(1)
    assert (choice.workers[0].id, choice.reason) == ("w1", Reason.LENGTH_BALANCE)


@pytest.mark.parametrize(
    ("sent", "balanced"),
    [
        ((10_000, 1, 1, 1), True),  # at most ten requests' worth
        ((10_002, 1, 1, 1), False),
        ((45_000, 30_001, 30_000, 30_000), True),  # at most half as much again
        ((45_001, 30_001, 30_000, 30_000), False),
    ],
)
def test_out_of_balance_takes_both_thresholds(sent: tuple[int, ...], balanced: bool) -> None:
    bench = Bench()
    assert bench.range_of(1000) == "w0"
    for slot, tokens in enumerate(sent):
        bench.column.note_sent(slot, tokens=tokens, blocks=0)
    assert (bench.choose(1000).reason is Reason.LENGTH_RANGE) is balanced


def test_of_several_that_were_sent_least_any_is_chosen() -> None:
    bench = Bench()
    bench.range_of(1)
    bench.column.note_sent(0, tokens=5000, blocks=0)
    assert {bench.choose(1).workers[0].id for _ in range(50)} == {"w1", "w2", "w3"}


def test_a_worker_that_joins_is_not_behind_by_what_was_sent_before() -> None:
    bench = Bench(workers=3)
    bench.range_of(1)
    for slot in range(3):
        bench.column.note_sent(slot, tokens=50_000, blocks=0)
    bench.everyone = candidates(4)
    assert bench.range_of(1) == "w0"
    assert bench.range_of(1) == "w0"


def test_balance_is_counted_anew_with_each_learning() -> None:
    bench = Bench()
    bench.range_of(1)
    bench.column.note_sent(0, tokens=5000, blocks=0)
    assert bench.choose(1).reason is Reason.LENGTH_BALANCE
    bench.shared.clock.advance(INTERVAL_SECS)
    bench.choose(1)
    assert bench.choose(1).reason is Reason.LENGTH_RANGE


def test_the_neighbouring_ranges_are_the_fall_backs() -> None:
    bench = Bench(workers=6, max_endpoints=4)
    assert [worker.id for worker in bench.choose(1).workers] == ["w0", "w1", "w2", "w3"]
    assert [worker.id for worker in bench.choose(1 << 20).workers] == ["w5", "w4", "w3", "w2"]
    middle = next(choice for length in range(500, 9000, 500) if (choice := bench.choose(length)).workers[0].id == "w2")
    assert [worker.id for worker in middle.workers[1:]] == ["w1", "w3", "w0"]


def test_the_tokens_of_a_prompt_count_where_they_are_known_else_its_bytes() -> None:
    shared = Shared()
    policy = Bucket(shared.context())
    body = RoutingRequest(method="POST", path="/", headers={"content-length": "4"}, payload=b"x" * 4000)
    for request in (request_with(prompt(1000), prompt(24, seed=1)), body, of_length(1000)):
        before = shared.context().lengths.totals()
        policy.choose(request, candidates(2))
        seen = shared.context().lengths.totals() - before
        assert seen.sum() == (1024 if request.prompts else 1000)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 1 << 22), st.integers(1, 6), st.sampled_from([0.0, 3.0, 6.0])), max_size=40))
def test_whatever_comes_somebody_is_chosen(steps: list[tuple[int, int, float]]) -> None:
    bench = Bench(2)
    for tokens, workers, secs in steps:
        bench.everyone = candidates(workers)
        bench.shared.clock.advance(secs)
        choice = bench.choose(tokens)
        bench.column.note_sent(choice.workers[0].slot, tokens=tokens, blocks=0)
        assert len(choice.workers) == min(workers, 3)
