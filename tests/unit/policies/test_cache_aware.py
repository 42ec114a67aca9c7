"""The rules of ``cache_aware``, one after the other; a worker takes 8,000 tokens a second until more is known."""

import itertools
from collections import Counter

import numpy as np
import pytest

from extproc.api.body import decode
from extproc.api.openai_chat import decoder
from extproc.api.request import RoutingRequest
from extproc.config.policies import CacheAwareSettings, PolicyParameters
from extproc.fleet.candidates import Candidates
from extproc.index.block_hash import block_hashes
from extproc.policies.base import Choice, Reason
from extproc.policies.cache_aware import CacheAware
from extproc.routing.accounting import Flight
from extproc.routing.text_prompt import text_prompt
from extproc.shm.worker_table import Engine, Outcome
from extproc.tokens.prompt_tokens import PromptTokens
from tests.support.fleets import Shared, candidates, prompt, request_with

EVERYONE = candidates(4)
PROMPT = prompt(1601)
HELD = 1600
BLOCKS = 100


def beginning(tokens: int, of: int, seed: int = 9) -> PromptTokens:
    """A prompt that begins as ``PROMPT`` and goes on in its own way."""
    ids = np.concatenate([PROMPT.ids[:tokens], prompt(of - tokens, seed=seed).ids])
    return PromptTokens(ids, block_hashes(ids, block_size=16, before=PROMPT.root), 16, PROMPT.root, "miss")


class Bench:
    """The policy in some processes, over workers whose caches and loads are set."""

    def __init__(self, processes: int = 1, *, settings: CacheAwareSettings | None = None) -> None:
        self.shared = Shared()
        parameters = PolicyParameters(cache_aware=settings or CacheAwareSettings())
        self.policies = [
            CacheAware(self.shared.context(process_slot=slot, seed=slot, parameters=parameters))
            for slot in range(processes)
        ]
        self.accounts = [self.shared.accounts(process_slot=slot) for slot in range(processes)]
        self.column = self.shared.table.column(9)

    def held(self, blocks: dict[int, int], of: PromptTokens = PROMPT) -> None:
        """Let workers hold so many leading blocks of a prompt."""
        for slot, count in blocks.items():
            self.shared.prefixes.record(of.block_hashes[:count], slot)

    def choose(self, asked: PromptTokens = PROMPT, among: Candidates = EVERYONE, *, process: int = 0) -> Choice:
        return self.policies[process].choose(request_with(asked), among)

    def firsts(self, asked: PromptTokens = PROMPT, among: Candidates = EVERYONE) -> set[str]:
        return {self.choose(asked, among).workers[0].id for _ in range(40)}

    def route(self, asked: PromptTokens = PROMPT, *, process: int = 0) -> tuple[Choice, Flight]:
        """Choose and account, as a router does."""
        choice = self.choose(asked, process=process)
        return choice, self.accounts[process].start(request_with(asked), choice, record=True)


def test_the_longest_prefix_wins() -> None:
    bench = Bench()
    bench.held({0: 40, 2: BLOCKS, 3: 70})
    choice = bench.choose()
    assert (choice.workers[0].id, choice.reason, choice.matched_tokens) == ("w2", Reason.PREFIX_MATCH, HELD)
    assert bench.firsts() == {"w2"}
    assert [worker.id for worker in choice.workers[1:]] == ["w3", "w0"], "then those that would be done sooner"


def test_of_those_within_a_block_of_the_best_the_least_loaded_wins() -> None:
    bench = Bench()
    bench.held({0: BLOCKS, 1: BLOCKS - 1, 2: BLOCKS - 2, 3: BLOCKS})
    assert bench.firsts() == {"w0", "w1", "w3"}
    bench.column.add(0, requests=1)
    bench.column.add(3, requests=2)
    choice = bench.choose()
    assert [worker.id for worker in choice.workers] == ["w1", "w0", "w3"]
    assert (choice.reason, choice.matched_tokens) == (Reason.PREFIX_MATCH, 1584)


def test_equal_ones_are_drawn() -> None:
    bench = Bench()
    bench.held({0: BLOCKS, 2: BLOCKS})
    counts = Counter(bench.choose().workers[0].id for _ in range(1000))
    assert counts.keys() == {"w0", "w2"}
    assert abs(counts["w0"] - 500) < 100


@pytest.mark.parametrize(("blocks", "reason"), [(30, Reason.NO_MATCH), (31, Reason.PREFIX_MATCH)])
def test_affinity_counts_above_the_threshold(blocks: int, reason: Reason) -> None:
    bench = Bench()
    bench.held({1: blocks})
    choice = bench.choose()
    assert (choice.reason, len(bench.firsts())) == (reason, 1 if reason is Reason.PREFIX_MATCH else 4)


def test_below_the_threshold_the_least_expected_wait_wins() -> None:
    bench = Bench()
    bench.held({1: 20})
    for slot, secs in ((0, 0.05), (1, 0.04), (3, 0.1)):
        bench.column.add(slot, requests=1)
        bench.shared.busy(slot, secs)
    choice = bench.choose()
    assert [worker.id for worker in choice.workers] == ["w2", "w1", "w0"]
    assert (choice.reason, choice.matched_tokens) == (Reason.NO_MATCH, 0)


def test_one_block_of_a_short_prompt_does_not_beat_an_idle_worker() -> None:
    """It is most of the prompt, but computing it is sooner done than waiting."""
    bench, short = Bench(), prompt(20)
    bench.held({1: 1}, short)
    assert bench.firsts(short) == {"w1"}
    bench.column.add(1, requests=1)
    assert bench.firsts(short) == {"w0", "w2", "w3"}
    assert bench.choose(short).reason is Reason.SPILL_COST


@pytest.mark.parametrize(
    ("requests", "others", "reason"),
    [
        (85, 0, Reason.PREFIX_MATCH),  # 63.75 over the mean
        (86, 0, Reason.SPILL_OVERLOAD),  # 64.5 over the mean
        (400, 300, Reason.PREFIX_MATCH),  # 75 over the mean, but only 1.23 times
    ],
)
def test_a_worker_with_too_many_requests_gives_way_to_the_least_loaded(
    requests: int, others: int, reason: Reason
) -> None:
    """Prefill is so dear here that nothing else would make it give way."""
    bench = Bench()
    bench.held({1: BLOCKS})
    bench.shared.table.outcomes[:4, Outcome.PREFILL_RATE] = 10.0
    for slot in range(4):
        bench.column.add(slot, requests=requests if slot == 1 else others)
    choice = bench.choose()
    assert (choice.reason, choice.workers[0].id == "w1") == (reason, reason is Reason.PREFIX_MATCH)


def test_both_thresholds_can_be_set() -> None:
    bench = Bench(settings=CacheAwareSettings(balance_abs_threshold=2, balance_rel_threshold=3, cache_threshold=0.5))
    bench.held({1: 51})
    bench.shared.table.outcomes[:4, Outcome.PREFILL_RATE] = 10.0
    bench.column.add(1, requests=3)
    bench.column.add(0, requests=1)
    assert bench.choose().reason is Reason.PREFIX_MATCH, "not three times the mean of 1"
    bench.column.add(1, requests=7)
    assert bench.choose().reason is Reason.SPILL_OVERLOAD
    assert bench.choose(beginning(800, 1600)).reason is Reason.NO_MATCH


def test_waiting_longer_than_computing_takes_spills_and_a_little_longer_does_not() -> None:
    """The prompt takes 0.207 s, counted as 0.248: it costs the GPU's time, which is as good as waiting, and more."""
    bench = Bench()
    bench.held({1: BLOCKS})
    bench.shared.busy(1, 0.24)
    assert bench.choose().reason is Reason.PREFIX_MATCH
    bench.shared.busy(1, 0.255)
    assert bench.choose().reason is Reason.SPILL_COST
    assert bench.firsts() == {"w0", "w2", "w3"}


def test_a_hot_prefix_spreads_over_as_many_workers_as_its_load_needs() -> None:
    """In the gateway that this replaces, one below the gate of 64 requests used one worker of four."""
    bench = Bench()
    bench.shared.table.engines[:4, Engine.SEATS] = 1
    bench.shared.table.outcomes[:4, Outcome.SEAT_SECS] = 0.1
    used = [len({bench.route()[0].workers[0].id for _ in range(12)}) for _ in range(2)]
    assert used == [4, 4]
    assert max(bench.shared.table.in_flight()) <= 8
    for slot in range(4):
        assert bench.shared.prefixes.match(PROMPT.block_hashes, np.array([slot]))[0] == BLOCKS


@pytest.mark.parametrize("processes", [1, 4])
def test_a_burst_of_equal_prompts_stays_together(processes: int) -> None:
    """The choice is recorded at once, for all processes: the second comes long before the first is computed."""
    bench = Bench(processes)
    chosen = {bench.route(process=number % processes)[0].workers[0].id for number in range(8)}
    assert len(chosen) == 1


def test_of_a_prompt_of_whole_blocks_the_last_one_is_computed_again() -> None:
    bench = Bench()
    whole = prompt(320)
    bench.held({2: 20}, whole)
    choice = bench.choose(whole)
    assert (choice.workers[0].id, choice.reason, choice.matched_tokens) == ("w2", Reason.PREFIX_MATCH, 304)


def test_what_has_not_reached_its_worker_is_taken_back() -> None:
    bench = Bench()
    choice, flight = bench.route()
    bench.accounts[0].answered(flight, status=503, served="", streamed=False)
    bench.accounts[0].finish(flight)
    assert bench.choose().reason is Reason.NO_MATCH
    assert choice.reason is Reason.NO_MATCH


def test_a_worker_that_is_no_candidate_is_passed_over_whatever_it_holds() -> None:
    """A stale match is not sent to the first of the list, but to whoever holds next most, or to any."""
    bench = Bench()
    bench.held({0: BLOCKS, 3: 60})
    assert bench.firsts(among=EVERYONE.only([1, 2, 3])) == {"w3"}
    assert bench.firsts(among=EVERYONE.only([1, 2])) == {"w1", "w2"}


def test_a_worker_that_left_holds_nothing_when_another_gets_its_slot() -> None:
    bench = Bench()
    bench.held({1: BLOCKS})
    bench.shared.prefixes.clear_worker(1)
    assert bench.firsts() == {"w0", "w1", "w2", "w3"}


def test_conversations_stay_where_they_began_and_new_ones_spread() -> None:
    bench = Bench(2)
    turns = itertools.cycle(range(2))
    began = {}
    for seed in range(24):
        began[seed] = bench.route(prompt(800, seed=seed), process=next(turns))[0].workers[0].id
    bench.shared.clock.advance(60)
    for accounts in bench.accounts:
        accounts.sweep()
    for tokens in (1200, 1600, 2400):
        for seed, worker in began.items():
            assert bench.route(prompt(tokens, seed=seed), process=next(turns))[0].workers[0].id == worker
    assert set(Counter(began.values()).values()) <= {5, 6, 7}


def test_prompts_are_told_apart_by_their_text_where_their_tokens_cannot_be_known() -> None:
    def asking(system: str, question: str) -> PromptTokens:
        messages = b'[{"role": "system", "content": "%s"}, {"role": "user", "content": "%s"}]' % (
            system.encode(),
            question.encode(),
        )
        return text_prompt(decode(decoder, b'{"model": "m", "messages": %s}' % messages), "m")[0]

    bench = Bench()
    lead = "You are a helpful assistant of a company that sells screws. " * 20
    first = bench.route(asking(lead, "How long are they?"))[0].workers[0]
    choice = bench.choose(asking(lead, "How wide are they, and may they be painted?"))
    assert (choice.workers[0], choice.reason) == (first, Reason.PREFIX_MATCH)
    assert bench.choose(asking("Rust. " * 200, "How long are they?")).reason is Reason.NO_MATCH


def test_a_request_without_a_prompt_goes_to_the_least_loaded() -> None:
    bench = Bench()
    for slot in (0, 1, 3):
        bench.column.add(slot, requests=1)
    unknown = RoutingRequest(method="POST", path="/", headers={})
    for request in (unknown, request_with(prompt(15))):
        choice = bench.policies[0].choose(request, EVERYONE)
        assert (choice.workers[0].id, choice.reason, choice.matched_tokens) == ("w2", Reason.LEAST_LOAD, 0)
