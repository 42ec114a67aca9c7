"""Places among those in flight, from the director's side: given back in every way that a request can end."""

import asyncio
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.api.request import RoutingRequest
from extproc.config.admission import AdmissionSettings
from extproc.config.models import ModelSpec
from extproc.errors import ModelNotFound, NoEndpoint, Overloaded, QueueTimeout
from extproc.fleet.candidates import Candidates
from extproc.fleet.view import FleetView
from extproc.policies.base import Choice
from extproc.policies.round_robin import RoundRobin
from extproc.routing.accounting import MAX_LINGER_SECS
from extproc.routing.decision import Decision
from tests.support.directors import Directing, Published
from tests.support.fleets import worker
from tests.support.loops import ClockedLoop
from tests.support.readers import Reading

MAX_WAIT_SECS = 2.0
LIMITED = ModelSpec(name="limited", max_requests=1)


class Failing(RoundRobin):
    """A policy that fails while it is told to."""

    fails = False

    def choose(self, request: RoutingRequest, candidates: Candidates) -> Choice:
        if self.fails:
            raise ZeroDivisionError
        return super().choose(request, candidates)


class Bench:
    """A director that admits ``most`` requests at once, and one of the model ``limited``."""

    def __init__(self, most: int = 0) -> None:
        self.published = Published(worker(1), worker(2), models=(LIMITED,))
        self.directing = Directing(
            fleet=FleetView(self.published),
            prompts=Reading().reader,
            policies={"default": Failing},
            admission=AdmissionSettings(max_requests=most, max_wait_secs=MAX_WAIT_SECS),
        )

    def start(self, model: str = "other") -> "Decision | asyncio.Future[Decision]":
        payload = json.dumps({"model": model, "messages": []}).encode()
        request = RoutingRequest(method="POST", path="/v1/chat/completions", headers={}, payload=payload)
        request.body_needed = self.directing.director.needs_body(request.method, request.path)
        return self.directing.director.decide(request)

    def route(self, model: str = "other") -> Decision:
        decision = self.start(model)
        assert isinstance(decision, Decision)
        return decision

    def later(self, model: str = "other") -> "asyncio.Future[Decision]":
        pending = self.start(model)
        assert isinstance(pending, asyncio.Future)
        return pending

    def fail(self, *, now: bool) -> None:
        policy = self.directing.policies["default"]
        assert isinstance(policy, Failing)
        policy.fails = now

    @property
    def admitted(self) -> int:
        return self.directing.columns.total()[0]


async def test_a_place_is_held_from_the_decision_to_the_end_of_the_request() -> None:
    bench = Bench(most=1)
    first = bench.route()
    assert bench.admitted == 1
    pending = bench.later()
    first.release()
    second = await pending
    assert bench.admitted == 1
    second.release()
    assert (bench.admitted, bench.directing.in_flight) == (0, {})


async def test_the_models_own_limit_holds_where_its_name_is_read() -> None:
    bench = Bench()
    first = bench.route("limited")
    pending = bench.later("limited")
    bench.route("other")
    first.release()
    assert (await pending).endpoints


async def test_where_the_stream_ends_early_the_place_is_held_until_the_answer_should_be_over() -> None:
    bench = Bench(most=1)
    bench.route().release(early=True)
    pending = bench.later()
    assert bench.admitted == 1
    bench.directing.shared.clock.advance(MAX_LINGER_SECS)
    bench.directing.accounts.sweep()
    (await pending).release()
    assert bench.admitted == 0


async def test_whoever_has_waited_goes_to_those_who_are_workers_then() -> None:
    bench = Bench(most=1)
    first = bench.route()
    moved, refused = bench.later(), bench.later()
    bench.published.publish(worker(3))
    first.release()
    second = await moved
    assert second.endpoints == "10.0.0.3:8000"
    bench.published.publish()
    second.release()
    with pytest.raises(NoEndpoint):
        await refused
    assert bench.admitted == 0


async def test_what_fails_after_a_place_was_given_gives_it_back() -> None:
    bench = Bench(most=1)
    bench.fail(now=True)
    with pytest.raises(ZeroDivisionError):
        bench.start()
    assert bench.admitted == 0


def test_whoever_cannot_be_served_at_all_takes_no_place() -> None:
    bench = Bench(most=1)
    bench.published.publish(worker(1, models=("only",)))
    with pytest.raises(ModelNotFound):
        bench.start("nobodys")
    assert bench.admitted == 0


END = st.sampled_from(["end", "end early", "cancel", "fail", "grant and cancel", "wait", "time out"])


@given(st.integers(1, 3), st.lists(st.tuples(st.sampled_from(["limited", "other"]), END), max_size=12))
def test_everything_is_given_back_in_whatever_way_requests_end(most: int, requests: list[tuple[str, str]]) -> None:
    loop = ClockedLoop()
    bench = Bench(most)
    running: list[Decision | asyncio.Future[Decision]] = []
    try:
        for model, end in requests:
            loop.settle(lambda model=model: begin(bench, model, running))  # type: ignore[misc]
            loop.settle(lambda end=end: finish(bench, loop, running, end))  # type: ignore[misc]
            assert bench.admitted <= most
            if end == "time out":
                loop.advance(MAX_WAIT_SECS)
        bench.fail(now=False)
        while running:
            loop.settle(lambda: finish(bench, loop, running, "end"))
        bench.directing.shared.clock.advance(MAX_LINGER_SECS)
        loop.settle(bench.directing.accounts.sweep)
        assert (bench.admitted, bench.directing.columns.total()[1], bench.directing.in_flight) == (0, 0, {})
        assert bench.directing.admission.waiting == 0
    finally:
        loop.close()


def begin(bench: Bench, model: str, running: "list[Decision | asyncio.Future[Decision]]") -> None:
    with contextlib.suppress(ZeroDivisionError, Overloaded):
        running.append(bench.start(model))


def finish(bench: Bench, loop: ClockedLoop, running: "list[Decision | asyncio.Future[Decision]]", end: str) -> None:
    """End the oldest request, in some way."""
    bench.fail(now=end == "fail")
    if not running or end in ("wait", "time out"):
        return
    oldest = running.pop(0)
    if end == "grant and cancel":
        waiting = [one for one in running if isinstance(one, asyncio.Future) and not one.done()]
        let_go(oldest)
        for one in waiting[:1]:
            running.remove(one)
            one.cancel()
    elif isinstance(oldest, asyncio.Future) and end == "cancel":
        let_go(oldest)
    elif isinstance(oldest, Decision):
        oldest.release(early=end == "end early")
    else:
        let_go(oldest)


def let_go(one: "Decision | asyncio.Future[Decision]") -> None:
    """End a request as the handler does when its stream is closed."""
    if isinstance(one, Decision):
        one.release()
    elif not one.done():
        one.cancel()
    elif not one.cancelled():
        error = one.exception()
        if error is None:
            one.result().release()
        else:
            assert isinstance(error, ZeroDivisionError | QueueTimeout | Overloaded)
