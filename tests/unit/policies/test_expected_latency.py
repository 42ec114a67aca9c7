import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.api.request import RoutingRequest
from extproc.config.policies import ExpectedLatencySettings, PolicyParameters
from extproc.fleet.candidates import Candidates
from extproc.fleet.loads import REQUEST_SECS
from extproc.policies.base import Choice, Reason
from extproc.policies.expected_latency import ExpectedLatency
from extproc.shm.worker_table import Engine, Outcome
from tests.support.fleets import Shared, candidates, prompt, request_with

EVERYONE = candidates(4)
TOKENS = 3200
BLOCKS = 200
PROMPT = prompt(TOKENS)
DEFAULTS = ExpectedLatencySettings()
TERMS = ("wait", "prefill", "work", "stall", "eviction")


class Bench:
    """The policy, over four workers whose caches, loads and speeds are set."""

    def __init__(self, settings: ExpectedLatencySettings = DEFAULTS, *, rate: float = 10_000) -> None:
        self.shared = Shared()
        self.column = self.shared.table.column(9)
        self.shared.table.outcomes[:4, Outcome.PREFILL_RATE] = rate
        parameters = PolicyParameters(expected_latency=settings)
        self.policy = ExpectedLatency(self.shared.context(parameters=parameters))

    def held(self, blocks: dict[int, int]) -> None:
        for slot, count in blocks.items():
            self.shared.prefixes.record(PROMPT.block_hashes[:count], slot)

    def cache(self, slot: int, *, blocks: int, used: int) -> None:
        """Set the size of a worker's cache, and how much was sent there."""
        self.shared.table.engines[slot, [Engine.NUM_BLOCKS, Engine.BLOCK_SIZE]] = blocks, 16
        self.column.note_sent(slot, tokens=0, blocks=used)

    def choose(self, request: RoutingRequest | None = None) -> Choice:
        choice = self.policy.choose(request or request_with(PROMPT), EVERYONE)
        assert choice.reason is Reason.EXPECTED_LATENCY
        assert tuple(name for name, _ in choice.terms) == TERMS
        return choice

    def firsts(self) -> set[str]:
        return {self.choose().workers[0].id for _ in range(40)}


def test_every_term_is_explained_in_seconds() -> None:
    """3,200 tokens at 10,000 a second, 1,600 of them cached, at the only worker whose wait is short."""
    bench = Bench()
    bench.held({1: 100})
    bench.cache(1, blocks=150, used=100)
    for slot in range(4):
        bench.column.add(slot, requests=2)
        bench.shared.busy(slot, 0.05 if slot == 1 else 9.0)
    choice = bench.choose()
    compute = 0.16 * (1 + (1600 + 800) / 24_000)
    assert (choice.workers[0].id, choice.matched_tokens) == ("w1", 1600)
    assert dict(choice.terms) == pytest.approx(
        {
            "wait": 0.05 + 2 * REQUEST_SECS,
            "prefill": compute + 1600 * 2.1e-6,
            "work": 0.2 * compute,
            "stall": 0.005 * 2 * compute,
            "eviction": 0.5 * 800 / 10_000,  # 2,400 tokens fit, 1,600 are used, and ours are 1,600
        }
    )


def test_the_lowest_sum_wins_and_the_next_lowest_are_the_fall_backs() -> None:
    bench = Bench()
    bench.held({0: BLOCKS, 3: 100})
    for slot, secs in ((0, 0.39), (1, 0.9)):
        bench.column.add(slot, requests=1)
        bench.shared.busy(slot, secs)
    assert [worker.id for worker in bench.choose().workers] == ["w3", "w0", "w2"]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.floats(0, 2), st.integers(0, BLOCKS)), min_size=4, max_size=4),
    st.booleans(),
)
def test_the_lowest_sum_of_the_terms_wins(loads: list[tuple[int, float, int]], is_first_full: bool) -> None:
    """As each would cost if it were alone; none is idle."""
    bench = Bench()
    for slot, (requests, secs, blocks) in enumerate(loads):
        bench.column.add(slot, requests=requests)
        bench.shared.busy(slot, secs)
        bench.held({slot: blocks})
    if is_first_full:
        bench.cache(0, blocks=100, used=100)
    alone = {
        worker.id: sum(secs for _, secs in bench.policy.choose(request_with(PROMPT), Candidates((worker,))).terms)
        for worker in EVERYONE
    }
    choice = bench.choose()
    assert sum(secs for _, secs in choice.terms) == pytest.approx(alone[choice.workers[0].id])
    assert [alone[worker.id] for worker in choice.workers] == pytest.approx(sorted(alone.values())[:3])


def test_it_is_affinity_where_prefill_is_dear() -> None:
    """Ten requests are ahead there, but computing the prompt anew would take 5 minutes."""
    bench = Bench(rate=10)
    bench.held({2: BLOCKS})
    bench.column.add(2, requests=10)
    assert bench.firsts() == {"w2"}


def test_it_is_least_load_where_prefill_is_cheap() -> None:
    bench = Bench(rate=10_000_000)
    bench.held({2: BLOCKS})
    for slot, requests in enumerate((3, 2, 2, 3)):
        bench.column.add(slot, requests=requests)
    bench.column.add(2, requests=1)
    assert bench.firsts() == {"w1"}


def test_of_equal_ones_any_is_chosen() -> None:
    bench = Bench()
    bench.held({0: BLOCKS, 3: BLOCKS})
    assert bench.firsts() == {"w0", "w3"}


def test_a_burst_of_equal_prompts_does_not_scatter() -> None:
    bench = Bench()
    accounts = bench.shared.accounts()
    chosen = set()
    for _ in range(8):
        choice = bench.choose()
        accounts.start(request_with(PROMPT), choice, record=True)
        chosen.add(choice.workers[0].id)
    assert len(chosen) == 1


def test_cached_tokens_are_cheap_and_not_free() -> None:
    bench = Bench()
    bench.held({0: BLOCKS})
    choice = bench.choose()
    assert choice.matched_tokens == TOKENS - 16, "the last block is computed again"
    computed = 16 / 10_000 * (1 + (TOKENS - 8) / 24_000)
    assert dict(choice.terms)["prefill"] == pytest.approx((TOKENS - 16) * 2.1e-6 + computed)


def test_longer_contexts_make_tokens_dearer() -> None:
    """Twice as long, and more than twice the time."""
    bench = Bench()
    once, twice = (dict(bench.choose(request_with(prompt(tokens))).terms)["prefill"] for tokens in (8000, 16_000))
    assert twice > 2.2 * once


def test_long_prompts_go_where_they_hold_up_fewer_answers() -> None:
    bench = Bench(ExpectedLatencySettings(stall_weight=0.1))
    careless = Bench(ExpectedLatencySettings(stall_weight=0))
    for one in (bench, careless):
        for slot in range(4):
            one.column.add(slot, requests=30 if slot < 3 else 10)
        one.shared.busy(3, 0.15)
    assert bench.firsts() == {"w3"}
    assert careless.firsts() == {"w0", "w1", "w2"}


@pytest.mark.parametrize(("work_weight", "winners"), [(0.0, {"w1", "w2", "w3"}), (0.2, {"w0"})])
def test_computing_anew_must_be_sooner_by_a_share_of_the_work(work_weight: float, winners: set[str]) -> None:
    """The holder begins after 0.35 s; the others would be done after 0.341 s."""
    bench = Bench(ExpectedLatencySettings(work_weight=work_weight))
    bench.held({0: BLOCKS})
    bench.shared.busy(0, 0.35)
    assert bench.firsts() == winners


def test_only_what_finds_no_room_is_displaced_and_an_emptied_cache_has_room() -> None:
    bench = Bench()
    for slot in range(4):
        bench.cache(slot, blocks=100, used=100)
        bench.shared.table.note_emptied(slot)
    for tokens, secs in ((1600, 0.0), (2400, 0.04)):
        assert dict(bench.choose(request_with(prompt(tokens))).terms)["eviction"] == pytest.approx(secs)


def test_a_worker_with_room_in_its_cache_goes_before_one_that_must_evict() -> None:
    bench = Bench()
    for slot, used in enumerate((1000, 900, 790, 1000)):
        bench.cache(slot, blocks=1000, used=used)
    assert bench.firsts() == {"w2"}
    assert [worker.id for worker in bench.choose().workers][1] == "w1", "half of the prompt fits"


def test_a_full_cache_never_keeps_a_worker_idle_that_would_answer_sooner() -> None:
    bench = Bench(ExpectedLatencySettings(eviction_weight=100))
    for slot in range(4):
        bench.cache(slot, blocks=1000, used=1000 if slot == 0 else 0)
        bench.column.add(slot, requests=0 if slot == 0 else 5)
    assert bench.firsts() == {"w0"}
    bench.column.add(0, requests=1)
    assert "w0" not in bench.firsts()


@settings(deadline=None, max_examples=200)
@given(
    workers=st.lists(
        st.tuples(
            st.integers(0, 4),
            st.floats(0, 4),
            st.integers(0, BLOCKS),
            st.integers(0, 300),
            st.sampled_from([2_000.0, 10_000.0, 60_000.0]),
        ),
        min_size=4,
        max_size=4,
    )
)
def test_no_worker_is_left_idle_that_is_expected_to_answer_sooner(
    workers: list[tuple[int, float, int, int, float]],
) -> None:
    """By more than the work that it takes to compute the prompt there is weighed."""
    bench = Bench()
    for slot, (requests, secs, held, used, rate) in enumerate(workers):
        bench.held({slot: held})
        bench.cache(slot, blocks=100, used=used)
        bench.column.add(slot, requests=requests)
        bench.shared.busy(slot, secs if requests else 0.0)
        bench.shared.table.outcomes[slot, Outcome.PREFILL_RATE] = rate
    choice = bench.choose()
    if workers[choice.workers[0].slot][0]:
        terms = dict(choice.terms)
        chosen = terms["wait"] + terms["prefill"] + terms["work"] + terms["stall"]
        load = bench.shared.context().loads.read(EVERYONE)
        cached = bench.shared.prefixes.match(PROMPT.block_hashes, EVERYONE.slots) * 16
        cached = np.minimum(cached, TOKENS - 16)
        compute = (TOKENS - cached) / load.prefill_rate * (1 + (cached + TOKENS) / 2 / 24_000)
        idle = load.requests == 0
        assert not np.any(idle & (1.2 * compute + cached * 2.1e-6 < chosen - 1e-9))


@pytest.mark.parametrize(
    ("request_", "tokens"),
    [
        (request_with(PROMPT, prompt(800, seed=5)), 4000),
        (RoutingRequest(method="POST", path="/", headers={}, payload=b"x" * 8000), 2000),
        (RoutingRequest(method="POST", path="/", headers={"content-length": "8000"}), 2000),
        (RoutingRequest(method="GET", path="/", headers={}), 0),
    ],
    ids=["several prompts", "a body", "the length of a body", "nothing"],
)
def test_what_is_known_of_the_length_counts(request_: RoutingRequest, tokens: int) -> None:
    bench = Bench()
    compute = tokens / 10_000 * (1 + tokens / 2 / 24_000)
    assert dict(bench.choose(request_).terms)["prefill"] == pytest.approx(compute)
