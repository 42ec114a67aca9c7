"""What a request weighs, from its choice to the end of its answer, in every way that it can end."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.api.body import decode
from extproc.api.openai_chat import decoder
from extproc.api.request import RoutingRequest
from extproc.fleet.candidates import Candidates
from extproc.fleet.loads import FIRST_PREFILL_RATE
from extproc.fleet.prefill import work_tokens
from extproc.fleet.worker import Worker
from extproc.index.prefix_index import Tier
from extproc.policies.base import Choice, Reason
from extproc.routing.accounting import Accounts, Flight
from extproc.shm.layout import Quantity
from extproc.shm.worker_table import Engine, Outcome
from tests.support.fleets import ATTENTION_TOKENS, Shared, prompt, ranks_of, request_with, workers

ONE, TWO, THREE = workers(3)
IN_FLIGHT = (Quantity.REQUESTS, Quantity.DECODE_TOKENS)


def secs(tokens: int, cached: int = 0) -> float:
    """How long a prompt is computed at the 8,000 work tokens a second that are taken until more is known."""
    return work_tokens(tokens, cached, attention_tokens=ATTENTION_TOKENS) / FIRST_PREFILL_RATE


class Bench:
    """One process's accounts over workers 0 to 2."""

    def __init__(self) -> None:
        self.shared = Shared()
        self.known: dict[str, Worker] = {worker.address: worker for worker in (ONE, TWO, THREE)}
        self.accounts: Accounts = self.shared.accounts(worker_at=lambda address, _rank: self.known.get(address))

    def start(self, request: RoutingRequest | None = None, *chosen: Worker) -> Flight:
        choice = Choice(chosen or (ONE, TWO), Reason.RANDOM)
        return self.accounts.start(request or request_with(prompt(1600)), choice, record=True)

    def answered(
        self, flight: Flight, status: int = 200, served: Worker | None = None, *, streamed: bool = False
    ) -> None:
        self.accounts.answered(flight, status=status, served=served.address if served else "", streamed=streamed)

    def at(self, worker: Worker) -> list[int]:
        """Requests and answer tokens in flight."""
        return [int(self.shared.table.totals(quantity)[worker.slot]) for quantity in IN_FLIGHT]

    def busy(self, worker: Worker) -> float:
        """How long a worker has prompts to compute."""
        return max(self.outcome(worker, Outcome.BUSY_UNTIL) - self.shared.clock(), 0.0)

    def outcome(self, worker: Worker, number: Outcome) -> float:
        return float(self.shared.table.outcomes[worker.slot, number])

    def held(self, worker: Worker, seed: int = 0) -> float:
        """Blocks of a prompt that a worker is recorded to hold."""
        slots = np.array([worker.slot])
        return float(self.shared.prefixes.match(prompt(1600, seed=seed).block_hashes, slots)[0])


def test_everything_is_counted_at_the_choice_and_given_back_in_two_steps() -> None:
    bench = Bench()
    flight = bench.start()
    assert (bench.at(ONE), bench.held(ONE)) == ([1, 256], 100)
    assert bench.busy(ONE) == pytest.approx(secs(1600))
    bench.answered(flight, served=ONE)
    assert (bench.at(ONE), bench.busy(ONE)) == ([1, 256], 0)
    bench.accounts.finish(flight)
    bench.accounts.finish(flight)
    assert (bench.at(ONE), bench.held(ONE)) == ([0, 0], 100)


def test_only_what_the_worker_does_not_hold_has_to_be_computed() -> None:
    bench = Bench()
    bench.start()
    again = bench.start()
    assert (again.uncached_tokens, again.ahead) == (16, 1), "the last token is computed again, with its block"
    assert again.ahead_secs == pytest.approx(secs(1600))
    assert bench.busy(ONE) == pytest.approx(secs(1600) + secs(16, cached=1584))


def test_a_token_is_more_work_in_a_longer_context() -> None:
    """A prompt of 100,000 takes three times as long as its tokens would by themselves."""
    bench = Bench()
    bench.start(request_with(prompt(100_000)))
    assert bench.busy(ONE) == pytest.approx(100_000 / FIRST_PREFILL_RATE * (1 + 50_000 / ATTENTION_TOKENS))
    assert bench.outcome(ONE, Outcome.PREFILL_STRETCH) > 2


def test_the_answer_may_be_as_long_as_the_request_allows() -> None:
    bench = Bench()
    body = json.dumps({"model": "m", "messages": [], "max_tokens": 7}).encode()
    request = RoutingRequest(method="POST", path="/", headers={}, payload=body, body=decode(decoder, body))
    bench.start(request)
    assert bench.at(ONE) == [1, 7]
    assert bench.busy(ONE) == pytest.approx(secs(len(body) // 4))


def test_what_another_worker_has_served_moves_there_and_the_first_has_failed() -> None:
    bench = Bench()
    flight = bench.start()
    bench.answered(flight, served=TWO)
    assert (bench.at(ONE), bench.at(TWO)) == ([0, 0], [1, 256])
    assert (bench.busy(ONE), bench.busy(TWO)) == (0, 0)
    assert (bench.held(ONE), bench.held(TWO)) == (0, 100)
    assert (bench.outcome(ONE, Outcome.FAILURES), bench.outcome(TWO, Outcome.FAILURES)) == (1, 0)
    bench.accounts.finish(flight)
    assert bench.at(TWO) == [0, 0]


def test_the_prompt_of_a_streamed_answer_is_queued_where_it_is_served() -> None:
    bench = Bench()
    flight = bench.start()
    bench.shared.clock.advance(0.15)
    bench.answered(flight, served=TWO, streamed=True)
    assert [bench.busy(ONE), bench.busy(TWO)] == pytest.approx([0, secs(1600)])
    bench.accounts.finish(flight)
    assert bench.busy(TWO) == 0


def test_a_worker_off_the_list_may_have_served_after_all_of_it_failed() -> None:
    bench = Bench()
    flight = bench.start()
    bench.answered(flight, served=THREE)
    assert [bench.outcome(worker, Outcome.FAILURES) for worker in (ONE, TWO, THREE)] == [1, 1, 0]
    assert bench.at(THREE) == [1, 256]


def test_an_address_that_is_gone_meanwhile_leaves_the_request_where_it_counts() -> None:
    bench = Bench()
    flight = bench.start()
    del bench.known[TWO.address]
    bench.answered(flight, served=TWO)
    assert (bench.at(ONE), bench.busy(ONE)) == ([1, 256], 0)
    bench.accounts.finish(flight)
    assert bench.at(ONE) == [0, 0]


@pytest.mark.parametrize(("status", "failures", "held"), [(200, 0, 100), (404, 0, 100), (500, 1, 0), (503, 1, 0)])
def test_a_server_error_is_a_failure_and_takes_the_record_back(status: int, failures: int, held: float) -> None:
    bench = Bench()
    bench.answered(bench.start(), status, ONE)
    assert (bench.outcome(ONE, Outcome.FAILURES), bench.held(ONE)) == (failures, held)
    assert bench.busy(ONE) == 0


def test_what_was_known_before_a_failed_request_stays_known() -> None:
    bench = Bench()
    bench.answered(bench.start(), 200, ONE)
    bench.answered(bench.start(), 503, ONE)
    assert bench.held(ONE) == 100


def test_the_headers_of_a_streamed_answer_give_nothing_back_before_its_prompt_can_be_done() -> None:
    bench = Bench()
    flight = bench.start(request_with(prompt(8000)))
    bench.shared.clock.advance(0.02)
    bench.answered(flight, served=ONE, streamed=True)
    bench.accounts.sweep()
    assert bench.busy(ONE) == pytest.approx(secs(8000) - 0.02)
    assert bench.outcome(ONE, Outcome.LONE_SECS) == 0, "they teach nothing of its speed"


def test_the_end_of_a_streamed_answer_gives_back_what_is_left_of_its_prompt_once() -> None:
    bench = Bench()
    flight = bench.start(request_with(prompt(8000)))
    bench.answered(flight, served=ONE, streamed=True)
    bench.shared.clock.advance(0.5)
    bench.start(request_with(prompt(16_000, seed=5)))
    for _ in range(2):
        bench.accounts.finish(flight)
        assert bench.busy(ONE) == pytest.approx(secs(16_000))


def test_prompts_queue_up_and_time_gives_them_back_however_long_their_answers_take() -> None:
    bench = Bench()
    flights = [bench.start(request_with(prompt(8000, seed=seed))) for seed in (1, 2)]
    both = 2 * secs(8000)
    assert flights[1].ahead_secs == pytest.approx(secs(8000))
    for passed in (0.5, 1.25, both - 0.01, both, 60.0):
        bench.shared.clock.now = 1000.0 + passed
        assert bench.busy(ONE) == pytest.approx(max(both - passed, 0.0), abs=1e-9), "half of a prompt counts half"
    for flight in flights:
        bench.answered(flight, served=ONE)
        bench.accounts.finish(flight)
    assert (bench.at(ONE), bench.busy(ONE)) == ([0, 0], 0)


def test_what_has_failed_while_it_was_queued_leaves_the_others_where_they_were() -> None:
    bench = Bench()
    bench.start(request_with(prompt(8000, seed=1)))
    failed = bench.start(request_with(prompt(80_000, seed=2)))
    bench.start(request_with(prompt(8000, seed=3)))
    bench.shared.clock.advance(0.25)
    bench.answered(failed, 503, ONE)
    bench.accounts.finish(failed)
    assert bench.busy(ONE) == pytest.approx(2 * secs(8000) - 0.25)


def test_the_prompts_of_two_routers_add_up() -> None:
    bench = Bench()
    other = bench.shared.accounts(process_slot=1)
    first = bench.start(request_with(prompt(8000, seed=1)))
    second = other.start(request_with(prompt(16_000, seed=2)), Choice((ONE,), Reason.RANDOM), record=True)
    assert bench.busy(ONE) == pytest.approx(secs(8000) + secs(16_000))
    bench.accounts.finish(first)
    assert bench.busy(ONE) == pytest.approx(secs(16_000))
    other.finish(second)
    assert bench.busy(ONE) == 0


def test_a_router_that_is_killed_leaves_no_prompt_behind() -> None:
    bench = Bench()
    bench.start(request_with(prompt(8000)))
    bench.shared.table.clear_column(0)
    bench.shared.clock.advance(secs(8000))
    assert (bench.at(ONE), bench.busy(ONE)) == ([0, 0], 0)


def test_a_prompt_takes_its_time_at_the_rate_that_the_policy_was_told() -> None:
    """Two workers about as fast are taken for equal; one of another kind, and one nobody has asked for, are not."""
    shared = Shared()
    loads = shared.loads()
    accounts = shared.accounts(loads=loads)
    for slot, rate in ((0, 10_000.0), (1, 11_000.0), (2, 90_000.0)):
        shared.table.outcomes[slot, Outcome.PREFILL_RATE] = rate
    rates = loads.read(Candidates((ONE, TWO))).prefill_rate
    assert rates[0] == rates[1]
    for worker, rate in ((ONE, rates[0]), (TWO, rates[0]), (THREE, 90_000.0)):
        flight = accounts.start(request_with(prompt(8000)), Choice((worker,), Reason.RANDOM), record=True)
        assert flight.done_at - flight.started == pytest.approx(flight.work_tokens / rate)


@pytest.mark.parametrize("streamed", [True, False])
def test_the_time_of_a_whole_answer_is_learned(streamed: bool) -> None:
    bench = Bench()
    flight = bench.start(request_with(prompt(16)))
    bench.shared.clock.advance(0.02 if streamed else 3.0)
    bench.answered(flight, served=ONE, streamed=streamed)
    bench.shared.clock.advance(2.98 if streamed else 0.0)
    bench.accounts.finish(flight)
    assert bench.outcome(ONE, Outcome.LONE_SECS) == pytest.approx(3.0)


@pytest.mark.parametrize(("status", "served"), [(503, ONE), (200, TWO)])
def test_a_streamed_answer_of_an_error_or_of_another_worker_teaches_nothing(status: int, served: Worker) -> None:
    bench = Bench()
    flight = bench.start(request_with(prompt(16)))
    bench.answered(flight, status, served, streamed=True)
    bench.shared.clock.advance(3)
    bench.accounts.finish(flight)
    assert [bench.outcome(worker, Outcome.LONE_SECS) for worker in (ONE, TWO)] == [0, 0]


def test_a_stream_that_ends_early_lingers_for_its_expected_time() -> None:
    bench = Bench()
    flight = bench.start()
    bench.accounts.finish(flight, early=True)
    assert bench.at(ONE) == [1, 256]
    assert bench.busy(ONE) == pytest.approx(secs(1600))
    bench.shared.clock.advance(60)
    bench.accounts.sweep()
    assert (bench.at(ONE), bench.busy(ONE)) == ([0, 0], 0)


def test_a_lingering_request_goes_as_soon_as_the_engine_has_fewer() -> None:
    bench = Bench()
    for _ in range(2):
        bench.accounts.finish(bench.start(), early=True)
    bench.shared.clock.advance(3)
    engine = bench.shared.table.engines[ONE.slot]
    engine[Engine.RUNNING], engine[Engine.SCRAPED_AT] = 1, bench.shared.clock()
    bench.accounts.sweep()
    assert bench.at(ONE)[0] == 1


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["unanswered", "whole", "streamed", "failed", "elsewhere", "unknown"]),
            st.booleans(),
            st.floats(0, 30),
        ),
        max_size=12,
    )
)
def test_everything_returns_to_zero_in_whatever_way_streams_end(ends: list[tuple[str, bool, float]]) -> None:
    bench = Bench()
    tokens = [100 + 5000 * number for number in range(len(ends))]
    flights = [bench.start(request_with(prompt(count, seed=seed))) for seed, count in enumerate(tokens)]
    for flight, (end, early, pause) in zip(flights, ends, strict=True):
        bench.shared.clock.advance(pause)
        if end == "unknown":
            bench.accounts.answered(flight, status=200, served="10.9.9.9:1", streamed=False)
        elif end != "unanswered":
            status = 503 if end == "failed" else 200
            bench.answered(flight, status, TWO if end == "elsewhere" else ONE, streamed=end == "streamed")
        bench.accounts.finish(flight, early=early)
        assert all(bench.busy(worker) <= sum(map(secs, tokens)) + 1e-6 for worker in (ONE, TWO, THREE))
    bench.shared.clock.advance(1000)
    bench.accounts.sweep()
    assert [bench.at(worker) for worker in (ONE, TWO, THREE)] == [[0, 0]] * 3
    assert [bench.busy(worker) for worker in (ONE, TWO, THREE)] == [0] * 3


@pytest.mark.parametrize("early", [False, True])
def test_a_lingering_request_is_given_back_once(early: bool) -> None:
    bench = Bench()
    lingering = bench.start()
    bench.accounts.finish(lingering, early=True)
    bench.accounts.finish(lingering, early=early)
    assert bench.at(ONE)[0] == 1
    bench.shared.clock.advance(60)
    bench.start(request_with(prompt(1600, seed=5)))
    bench.accounts.sweep()
    assert bench.at(ONE)[0] == 1


@pytest.mark.parametrize("streamed", [False, True])
def test_a_flight_tells_what_its_answer_was_whoever_has_served(streamed: bool) -> None:
    bench = Bench()
    flight = bench.start()
    assert (flight.status, flight.headers_first, flight.early) == (0, False, False)
    bench.answered(flight, 404, TWO, streamed=streamed)
    bench.accounts.finish(flight, early=True)
    assert (flight.status, flight.headers_first, flight.early) == (404, streamed, True)


def test_what_no_event_confirms_is_taken_back_a_while_after_the_end() -> None:
    bench = Bench()
    hashes = prompt(1600).block_hashes
    bench.shared.prefixes.set_precise(ONE.slot, precise=True)
    flight = bench.start()
    bench.answered(flight, streamed=True)
    bench.accounts.finish(flight)
    bench.shared.prefixes.hold(hashes[:40], np.full(40, ONE.slot), tier=Tier.NEAR)
    bench.shared.clock.advance(1.9)
    bench.accounts.sweep()
    assert bench.shared.prefixes.leading_blocks(hashes, ONE.slot) == 100
    bench.shared.clock.advance(0.2)
    bench.accounts.sweep()
    assert bench.shared.prefixes.leading_blocks(hashes, ONE.slot) == 40


def test_a_request_that_never_reaches_the_engine_leaves_nothing_there_for_good() -> None:
    bench = Bench()
    bench.shared.prefixes.set_precise(ONE.slot, precise=True)
    bench.accounts.finish(bench.start())
    bench.shared.clock.advance(2.1)
    bench.accounts.sweep()
    assert bench.held(ONE) == 0


@pytest.mark.parametrize("exact", [False, True])
def test_what_no_event_would_name_stays_as_at_an_engine_that_does_not_tell(exact: bool) -> None:
    bench = Bench()
    bench.shared.prefixes.set_precise(ONE.slot, precise=exact is False)
    seen = prompt(1600)._replace(exact=exact)
    flight = bench.start(request_with(seen))
    bench.answered(flight)
    bench.accounts.finish(flight)
    bench.shared.clock.advance(60.0)
    bench.accounts.sweep()
    assert bench.held(ONE) > 0


def ranked_bench(*servers: Worker) -> Bench:
    bench = Bench()
    by_place = {(one.address, one.rank): one for one in servers}
    bench.accounts = bench.shared.accounts(
        worker_at=lambda address, rank: by_place.get((address, 0 if rank is None else rank))
    )
    return bench


def test_the_first_choice_is_the_rank_that_was_chosen_wherever_its_address_served() -> None:
    ranks = ranks_of(1, 3, slot=3)
    bench = ranked_bench(*ranks)
    flight = bench.start(None, ranks[2])
    bench.answered(flight, served=ranks[0], streamed=True)
    assert flight.worker is ranks[2]
    assert bench.held(ranks[2]) == 100


def test_another_server_has_served_with_the_rank_that_was_named() -> None:
    chosen, others = ranks_of(1, 2, slot=3), ranks_of(2, 4, slot=8)
    bench = ranked_bench(*chosen, *others)
    flight = bench.start(None, chosen[1], others[1])
    bench.answered(flight, served=others[0], streamed=True)
    assert flight.worker is others[1]
    assert (bench.held(chosen[1]), bench.held(others[1])) == (0, 100)
    assert (bench.at(others[1])[0], bench.at(others[0])[0]) == (1, 0)


def test_where_no_rank_was_named_nobody_knows_whose_cache_has_the_prompt() -> None:
    ranks = ranks_of(4, 2, slot=8)
    bench = ranked_bench(ONE, *ranks)
    flight = bench.start(None, ONE, ranks[0])
    bench.answered(flight, served=ranks[0], streamed=True)
    assert flight.worker is ranks[0]
    assert [bench.held(worker) for worker in (ONE, *ranks)] == [0, 0, 0]
    bench.accounts.finish(flight)
    assert bench.at(ranks[0]) == [0, 0]
