from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.api.request import RoutingRequest
from extproc.config.policies import ExpectedLatencySettings, PolicyParameters
from extproc.fleet.candidates import Candidates
from extproc.policies.base import Choice, Reason
from extproc.policies.expected_latency import ExpectedLatency
from extproc.shm.worker_table import Engine
from tests.support.fleets import Shared, candidates, prompt, request_with

LONG = request_with(prompt(8000))
"""One second's tokens, and with the attention of their mean context of 4,000 tokens 1.2 s."""
TERMS = ("wait", "prefill", "work", "stall", "eviction")


def policy_with(shared: Shared, **parameters: Any) -> ExpectedLatency:  # noqa: ANN401 - settings of several types
    return ExpectedLatency(
        shared.context(parameters=PolicyParameters(expected_latency=ExpectedLatencySettings(**parameters)))
    )


def first(policy: ExpectedLatency, request: RoutingRequest, everyone: Candidates) -> str:
    return policy.choose(request, everyone).workers[0].id


def held(shared: Shared, request: RoutingRequest, slot: int, blocks: int | None = None) -> None:
    shared.prefixes.record(request.prompts[0].block_hashes[:blocks], slot)


def full_cache(shared: Shared, slot: int, *, blocks: int = 100) -> None:
    """A cache of so many blocks of 16 tokens, and as many were sent there."""
    shared.table.engines[slot, Engine.NUM_BLOCKS] = blocks
    shared.table.engines[slot, Engine.BLOCK_SIZE] = 16
    shared.table.column(0).note_sent(slot, tokens=0, blocks=blocks)


def cost(choice: Choice) -> float:
    return sum(secs for _, secs in choice.terms)


@pytest.mark.parametrize(("tokens", "winner"), [(8000, "w1"), (64, "w0")])
def test_goes_by_affinity_where_prefill_is_dear_and_by_load_where_it_is_cheap(tokens: int, winner: str) -> None:
    shared, request = Shared(), request_with(prompt(tokens))
    held(shared, request, 1)
    shared.table.column(0).add(1, requests=20)
    choice = policy_with(shared).choose(request, candidates(2))
    expected = (winner, tokens if winner == "w1" else 0)
    assert (choice.workers[0].id, choice.matched_tokens) == expected
    assert choice.reason is Reason.EXPECTED_LATENCY


def test_fast_engines_make_the_same_prompt_cheap() -> None:
    shared = Shared()
    held(shared, LONG, 1)
    shared.table.column(0).add(1, requests=20)
    shared.table.engines[:2, Engine.PREFILL_RATE] = 1_000_000
    assert first(policy_with(shared), LONG, candidates(2)) == "w0"


def test_every_term_is_named_and_is_what_it_says() -> None:
    shared = Shared()
    held(shared, LONG, 0, blocks=250)
    full_cache(shared, 0, blocks=1000)
    shared.table.column(0).add(0, requests=3, prefill_tokens=2000)
    choice = policy_with(shared).choose(LONG, candidates(1))
    assert tuple(name for name, _ in choice.terms) == TERMS
    compute = 0.5 * (1 + (4000 + 2000) / 20_000)
    expected = {
        "wait": 0.25 + 3 * 0.004,
        "prefill": compute + 4000 * 2.1e-6,
        "work": 0.2 * compute,
        "stall": 0.1 * 3 * compute,
        "eviction": 0.5 * 0.5,
    }
    assert dict(choice.terms) == pytest.approx(expected)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 20_000), st.integers(0, 500)), min_size=2, max_size=6),
    st.booleans(),
)
def test_the_lowest_sum_of_the_terms_wins_and_the_next_lowest_follow(
    loads: list[tuple[int, int, int]], is_first_full: bool
) -> None:
    shared = Shared()
    for slot, (requests, tokens, blocks) in enumerate(loads):
        shared.table.column(slot).add(slot, requests=requests, prefill_tokens=tokens)
        held(shared, LONG, slot, blocks)
    if is_first_full:
        full_cache(shared, 0)
    policy, everyone = policy_with(shared), candidates(len(loads))
    alone = {worker.id: cost(policy.choose(LONG, Candidates((worker,)))) for worker in everyone}
    choice = policy.choose(LONG, everyone)
    assert cost(choice) == pytest.approx(alone[choice.workers[0].id])
    assert [alone[worker.id] for worker in choice.workers] == pytest.approx(sorted(alone.values())[:3])


@pytest.mark.parametrize(("work_weight", "winner"), [(0.0, "w0"), (0.2, "w1")])
def test_computing_anew_must_be_sooner_by_a_share_of_the_work(work_weight: float, winner: str) -> None:
    """The holder begins after 1.3 s; the other would be done after 1.2 s."""
    shared = Shared()
    held(shared, LONG, 1)
    shared.table.column(0).add(1, prefill_tokens=10_400)
    assert first(policy_with(shared, work_weight=work_weight), LONG, candidates(2)) == winner


@pytest.mark.parametrize(("stall_weight", "winner"), [(0.0, "w0"), (0.1, "w1")])
def test_a_worker_that_generates_many_answers_is_spared_a_long_prefill(stall_weight: float, winner: str) -> None:
    shared = Shared()
    shared.table.column(0).add(0, requests=40)
    shared.table.column(0).add(1, requests=1, prefill_tokens=1600)
    assert first(policy_with(shared, stall_weight=stall_weight), LONG, candidates(2)) == winner


@pytest.mark.parametrize(
    ("requests", "winner"), [((0, 0), "w1"), ((1, 1), "w1"), ((1, 2), "w1"), ((0, 1), "w0"), ((1, 0), "w1")]
)
def test_a_full_cache_is_spared_but_an_idle_worker_that_would_answer_sooner_is_never_left(
    requests: tuple[int, int], winner: str
) -> None:
    shared, everyone = Shared(), candidates(2)
    full_cache(shared, 0)
    for slot, count in enumerate(requests):
        shared.table.column(0).add(slot, requests=count)
    assert first(policy_with(shared, eviction_weight=100), LONG, everyone) == winner


def test_only_what_finds_no_room_is_displaced_and_an_emptied_cache_has_room() -> None:
    shared = Shared()
    full_cache(shared, 0)
    shared.table.note_emptied(0)
    for tokens, secs in ((1600, 0.0), (2400, 0.05)):
        choice = policy_with(shared).choose(request_with(prompt(tokens)), candidates(1))
        assert dict(choice.terms)["eviction"] == pytest.approx(secs)


def test_a_request_without_a_prompt_goes_to_the_least_loaded() -> None:
    shared, everyone = Shared(), candidates(3)
    for slot, tokens in enumerate((2000, 1000, 3000)):
        shared.table.column(0).add(slot, prefill_tokens=tokens)
    choice = policy_with(shared).choose(request_with(), everyone)
    assert [worker.id for worker in choice.workers] == ["w1", "w0", "w2"]
