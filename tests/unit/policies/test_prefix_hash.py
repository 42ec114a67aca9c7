from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.api.body import decode
from extproc.api.openai_chat import decoder
from extproc.api.request import RoutingRequest
from extproc.config.policies import PolicyParameters, PrefixHashSettings
from extproc.fleet.candidates import Candidates
from extproc.index.block_hash import block_hashes
from extproc.policies.base import Choice, Reason
from extproc.policies.prefix_hash import PrefixHash
from extproc.routing.text_prompt import text_prompt
from extproc.tokens.prompt_tokens import PromptTokens
from tests.support.fleets import Shared, candidates, prompt, request_with

EVERYONE = candidates(5)
DEFAULTS = PrefixHashSettings()


def prompt_of(head: int, tail: int, *, head_tokens: int = 256, root: int = 1) -> RoutingRequest:
    """A prompt of a head that many may share, and a tail."""
    ids = np.concatenate([prompt(head_tokens, seed=head).ids, prompt(100, seed=10_000 + tail).ids])
    return request_with(PromptTokens(ids, block_hashes(ids, block_size=16, before=root), 16, root, "miss"))


class Bench:
    """The policy, over five workers whose loads are set."""

    def __init__(self, settings: PrefixHashSettings = DEFAULTS, *, seed: int = 0) -> None:
        self.shared = Shared()
        self.column = self.shared.table.column(1)
        parameters = PolicyParameters(prefix_hash=settings)
        self.policy = PrefixHash(self.shared.context(parameters=parameters, seed=seed, max_endpoints=5))

    def choose(self, request: RoutingRequest, among: Candidates = EVERYONE) -> Choice:
        return self.policy.choose(request, among)

    def first(self, request: RoutingRequest, among: Candidates = EVERYONE) -> str:
        return self.choose(request, among).workers[0].id

    def loaded(self, *requests: int) -> None:
        for slot, count in enumerate(requests):
            self.column.add(slot, requests=count)


def test_prompts_that_begin_alike_go_to_one_worker_in_every_process() -> None:
    benches = [Bench(seed=seed) for seed in range(3)]
    for head in range(20):
        chosen = {bench.first(prompt_of(head, tail)) for bench in benches for tail in range(5)}
        assert len(chosen) == 1


def test_other_prompts_are_shared_by_all() -> None:
    counts = Counter(Bench().first(prompt_of(head, 0)) for head in range(400))
    assert len(counts) == 5
    assert all(0.6 * 80 < count < 1.4 * 80 for count in counts.values())


def test_only_the_configured_number_of_tokens_counts() -> None:
    short, long = (Bench(PrefixHashSettings(prefix_token_count=count)) for count in (256, 300))
    tails = range(30)
    assert len({short.first(prompt_of(1, tail)) for tail in tails}) == 1
    assert len({long.first(prompt_of(1, tail)) for tail in tails}) == 5


def test_prompts_of_different_models_or_salts_do_not_go_together() -> None:
    assert len({Bench().first(prompt_of(1, 1, root=root)) for root in range(1, 30)}) == 5


def test_the_last_token_that_counts_does_and_the_next_does_not() -> None:
    bench = Bench()
    heads = [prompt(300, seed=seed) for seed in range(40)]

    def changed(at: int) -> list[str]:
        return [
            bench.first(request_with(head._replace(ids=np.bitwise_xor(head.ids, np.arange(300) == at))))
            for head in heads
        ]

    whole = [bench.first(request_with(head)) for head in heads]
    assert changed(256) == whole
    assert sum(one == other for one, other in zip(changed(255), whole, strict=True)) < 20


def test_the_tightest_bounds_leave_the_rings_worker_of_equals() -> None:
    bench = Bench(PrefixHashSettings(load_factor=1.0, balance_abs_threshold=0))
    first, second, *_ = bench.choose(prompt_of(1, 0)).workers
    bench.loaded(7, 7, 7, 7, 7)
    assert bench.choose(prompt_of(1, 0)).workers[0] is first
    bench.column.add(first.slot, requests=1)
    assert bench.choose(prompt_of(1, 0)).workers[0] is second


def test_only_the_prompts_of_a_worker_that_leaves_move() -> None:
    bench, left = Bench(), EVERYONE.only([0, 1, 2, 4])
    for head in range(60):
        before, after = bench.first(prompt_of(head, 0)), bench.first(prompt_of(head, 0), left)
        assert before in (after, "w3")


@pytest.mark.parametrize(
    ("own", "others", "taken"),
    [
        (10, 0, True),  # 8 over the mean of 2
        (12, 0, True),  # 9.6 over the mean of 2.4
        (13, 0, False),  # 10.4 over the mean of 2.6, and more than 1.25 * 14 / 5
        (62, 47, True),  # more than 10 over the mean of 50, and at most 1.25 * 251 / 5
        (64, 47, False),
    ],
)
def test_the_rings_worker_is_taken_within_either_bound(own: int, others: int, taken: bool) -> None:
    bench = Bench()
    first, second, *_ = bench.choose(prompt_of(1, 0)).workers
    bench.loaded(*[own if slot == first.slot else others for slot in range(5)])
    choice = bench.choose(prompt_of(1, 0))
    assert (choice.workers[0], choice.reason) == ((first, Reason.RING) if taken else (second, Reason.RING_NEXT))


def test_the_ring_is_walked_to_the_first_that_may_be_taken() -> None:
    bench = Bench()
    order = bench.choose(prompt_of(1, 0)).workers
    for worker, requests in zip(order, (40, 40, 5, 0, 0), strict=True):
        bench.column.add(worker.slot, requests=requests)
    choice = bench.choose(prompt_of(1, 0))
    assert choice.workers == (order[2], order[3], order[4], order[0], order[1])
    assert choice.reason is Reason.RING_NEXT


@settings(deadline=None, max_examples=60)
@given(
    requests=st.lists(st.integers(0, 60), min_size=5, max_size=5),
    load_factor=st.floats(1, 2),
    over=st.integers(0, 20),
    head=st.integers(0, 9),
)
def test_nobody_is_taken_who_is_over_both_bounds_nor_passed_over_who_is_not(
    requests: list[int], load_factor: float, over: int, head: int
) -> None:
    bench = Bench(PrefixHashSettings(load_factor=load_factor, balance_abs_threshold=over))
    order = [worker.slot for worker in bench.choose(prompt_of(head, 0)).workers]
    bench.loaded(*requests)
    total = sum(requests)
    within = [
        slot for slot in order if requests[slot] <= load_factor * (total + 1) / 5 or requests[slot] <= total / 5 + over
    ]
    assert bench.choose(prompt_of(head, 0)).workers[0].slot == within[0]


def test_texts_that_begin_alike_go_to_one_worker_where_tokens_cannot_be_known() -> None:
    def asking(question: str, lead: str) -> RoutingRequest:
        body = decode(
            decoder, b'{"model": "m", "messages": [{"role": "user", "content": "%s"}]}' % (lead + question).encode()
        )
        return request_with(*text_prompt(body, "m"))

    lead = "You are a helpful assistant. " * 40
    bench = Bench()
    assert len({bench.first(asking(f"question {number}", lead)) for number in range(20)}) == 1
    assert len({bench.first(asking("question", f"{number} {lead}")) for number in range(30)}) == 5


def test_a_request_without_a_prompt_goes_to_the_least_loaded() -> None:
    bench = Bench()
    bench.loaded(1, 1, 0, 1, 1)
    for request in (request_with(), request_with(prompt(0))):
        choice = bench.choose(request)
        assert (choice.workers[0].id, choice.reason) == ("w2", Reason.NO_KEY)
