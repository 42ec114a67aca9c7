import json
from collections import Counter

import pytest

from extproc.api.body import decode
from extproc.api.paths import decoder_for
from extproc.api.request import RoutingRequest
from extproc.fleet.candidates import Candidates
from extproc.policies.base import Choice, Reason
from extproc.policies.cache_aware import CacheAware
from extproc.routing.text_prompt import text_prompt
from tests.support.fleets import Shared, candidates, prompt, request_with

TOKENS, BLOCKS = 1600, 100
REQUEST = request_with(prompt(TOKENS))
LONG = request_with(prompt(10 * TOKENS))  # Two seconds of work: no load here makes it cheaper elsewhere.


def holding(shared: Shared, blocks: dict[int, int], request: RoutingRequest = REQUEST) -> CacheAware:
    """A policy after workers, by slot, were sent so many blocks of the prompt."""
    for slot, count in blocks.items():
        shared.prefixes.record(request.prompts[0].block_hashes[:count], slot)
    return CacheAware(shared.context())


def load(shared: Shared, *requests: int) -> None:
    for slot, count in enumerate(requests):
        shared.table.column(0).add(slot, requests=count)


def told(choice: Choice) -> tuple[str, Reason, int | None]:
    return choice.workers[0].id, choice.reason, choice.matched_tokens


def firsts(policy: CacheAware, everyone: Candidates, reason: Reason) -> Counter[str]:
    choices = [policy.choose(REQUEST, everyone) for _ in range(900)]
    assert {choice.reason for choice in choices} == {reason}
    return Counter(choice.workers[0].id for choice in choices)


def test_the_holder_of_the_prefix_wins_and_the_match_is_told() -> None:
    shared = Shared()
    load(shared, 0, 0, 3, 0)
    choice = holding(shared, {2: 90, 1: 50}).choose(REQUEST, candidates(4))
    assert told(choice) == ("w2", Reason.PREFIX_MATCH, 1440)
    assert choice.workers[1].id == "w1"


def test_a_match_counts_from_more_than_the_threshold_on_else_ties_are_drawn_evenly() -> None:
    everyone = candidates(4)
    assert firsts(holding(Shared(), {2: 31}), everyone, Reason.PREFIX_MATCH) == {"w2": 900}
    counts = firsts(holding(Shared(), {2: 30}), everyone, Reason.NO_MATCH)
    assert len(counts) == 4
    assert all(175 < count < 275 for count in counts.values())


def test_without_a_match_the_least_wait_wins() -> None:
    shared, everyone = Shared(), candidates(4)
    load(shared, 3, 2, 1, 2)
    assert firsts(holding(shared, {0: 30}), everyone, Reason.NO_MATCH) == {"w2": 900}
    assert told(holding(shared, {}).choose(request_with(), everyone)) == ("w2", Reason.LEAST_LOAD, 0)


def test_a_match_at_one_that_is_no_candidate_is_none() -> None:
    counts = firsts(holding(Shared(), {2: BLOCKS}), candidates(4).only([0, 1, 3]), Reason.NO_MATCH)
    assert set(counts) == {"w0", "w1", "w3"}


@pytest.mark.parametrize(
    ("requests", "winner", "matched"),
    [((5, 1, 9, 9), "w1", 1584), ((2, 8, 9, 9), "w0", 1600), ((5, 4, 2, 9), "w2", 1568)],
)
def test_of_all_within_one_block_of_the_best_the_least_loaded_wins(
    requests: tuple[int, ...], winner: str, matched: int
) -> None:
    """Two blocks less are too many, and win only by being sooner done."""
    reason = Reason.SPILL_COST if winner == "w2" else Reason.PREFIX_MATCH
    shared = Shared()
    load(shared, *requests)
    choice = holding(shared, {0: 100, 1: 99, 2: 98}).choose(REQUEST, candidates(4))
    assert told(choice) == (winner, reason, matched)
    assert choice.workers[1].id == {"w0": "w1", "w1": "w0", "w2": "w1"}[winner]


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        ((0, 0, 85, 0), ("w2", Reason.PREFIX_MATCH)),  # 64 over the mean of 21.25 is 85.25.
        ((0, 1, 87, 1), ("w0", Reason.SPILL_OVERLOAD)),
        ((199, 200, 330, 200), ("w2", Reason.PREFIX_MATCH)),  # Far more than 64 over the mean, not 1.5 times.
        ((199, 200, 410, 200), ("w0", Reason.SPILL_OVERLOAD)),
    ],
)
def test_the_holder_gives_way_when_it_has_too_many_requests_by_both_thresholds(
    requests: tuple[int, ...], expected: tuple[str, Reason]
) -> None:
    shared = Shared()
    load(shared, *requests)
    choice = holding(shared, {2: 10 * BLOCKS}, LONG).choose(LONG, candidates(4))
    assert told(choice)[:2] == expected


def test_what_spilled_is_recorded_there_so_the_prefix_replicates() -> None:
    shared, everyone = Shared(), candidates(4)
    load(shared, 0, 1, 87, 1)
    policy, accounts = holding(shared, {2: 10 * BLOCKS}, LONG), shared.accounts()
    spilled = policy.choose(LONG, everyone)
    assert told(spilled) == ("w0", Reason.SPILL_OVERLOAD, 0)
    accounts.start(LONG, spilled, record=True)
    shared.clock.advance(10)
    accounts.sweep()
    assert told(policy.choose(LONG, everyone)) == ("w0", Reason.PREFIX_MATCH, 10 * TOKENS)


def test_the_holder_gives_way_when_computing_elsewhere_is_sooner_done() -> None:
    """1,600 tokens count 1.2 times as much as waiting for as many."""
    for queued, expected in ((1900, ("w2", Reason.PREFIX_MATCH, 1600)), (1950, ("w1", Reason.SPILL_COST, 0))):
        shared = Shared()
        load(shared, 5, 0, 0, 5)
        shared.table.column(1).add(2, prefill_tokens=queued)
        assert told(holding(shared, {2: BLOCKS}).choose(REQUEST, candidates(4))) == expected


def test_a_hot_prefix_uses_all_workers_and_a_burst_of_it_does_not_scatter() -> None:
    shared, everyone = Shared(), candidates(4)
    policy, accounts = holding(shared, {}), shared.accounts()
    used = []
    for _ in range(400):
        choice = policy.choose(REQUEST, everyone)
        accounts.start(REQUEST, choice, record=True)
        used.append(choice.workers[0].id)
        shared.clock.advance(0.01)
    assert len(set(used[:4])) == 1
    assert min(used.count(worker.id) for worker in everyone) > 60


def test_prompts_known_by_their_text_match_too() -> None:
    shared, everyone = Shared(), candidates(4)
    decoder = decoder_for("POST", "/v1/completions")
    assert decoder is not None
    first, second, other = (
        request_with(*text_prompt(decode(decoder, json.dumps({"model": "m", "prompt": text}).encode()), "m"))
        for text in ("once upon a time " * 100, "once upon a time " * 100 + "there was", "there was " * 170)
    )
    policy = holding(shared, {3: 1000}, first)
    assert told(policy.choose(second, everyone))[:2] == ("w3", Reason.PREFIX_MATCH)
    assert told(policy.choose(other, everyone))[1:] == (Reason.NO_MATCH, 0)
