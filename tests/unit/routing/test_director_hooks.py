"""What hooks do on a request's way to its decision."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from extproc.api.request import RoutingRequest
from extproc.config.hooks import HookSettings
from extproc.errors import HookFailed, HookRefusal, InvalidRequest, ModelNotFound
from extproc.fleet.candidates import Candidates
from extproc.fleet.view import FleetView
from extproc.policies.base import Choice, Needs, PolicyContext
from extproc.policies.round_robin import RoundRobin
from extproc.routing.decision import Decision
from extproc.routing.hooks import HookRequest, HookResult
from tests.support.directors import Directing, Published
from tests.support.fleets import worker
from tests.support.readers import Reading

Answer = HookResult | Awaitable[HookResult | None] | None


class Hook:
    def __init__(self, action: Callable[[HookRequest], Answer], *, needs_body: bool = True) -> None:
        self.needs_body = needs_body
        self.on_request = action


class Seeing(RoundRobin):
    """A policy that remembers the headers that it saw."""

    needs = Needs.HEADERS

    def __init__(self, context: PolicyContext) -> None:
        super().__init__(context)
        self.seen: list[dict[str, str]] = []

    def choose(self, request: RoutingRequest, candidates: Candidates) -> Choice:
        self.seen.append(dict(request.headers))
        return super().choose(request, candidates)


class Bench:
    """A director over a worker for the model ``small`` and one for ``large``, with a hook."""

    def __init__(
        self, action: Callable[[HookRequest], Answer], *, needs_body: bool = True, refuses: bool = False
    ) -> None:
        published = Published(worker(1, models=("small",)), worker(2, models=("large",)))
        self.directing = Directing(
            fleet=FleetView(published),
            prompts=Reading().reader,
            policies={"default": Seeing},
            hooks=(("hook", Hook(action, needs_body=needs_body)),),
            hook_settings=HookSettings(time_budget_secs=30, on_error="refuse" if refuses else "skip"),
        )

    def start(self, request: RoutingRequest) -> "Decision | asyncio.Future[Decision]":
        request.body_needed = self.directing.director.needs_body(request.method, request.path)
        return self.directing.director.decide(request)

    def decide(self, request: RoutingRequest) -> Decision:
        decision = self.start(request)
        assert isinstance(decision, Decision)
        return decision

    @property
    def seen(self) -> list[dict[str, str]]:
        policy = self.directing.policies["default"]
        assert isinstance(policy, Seeing)
        return policy.seen


def chat(model: str = "small", **fields: Any) -> RoutingRequest:  # noqa: ANN401
    payload = json.dumps({"model": model, "messages": [{"role": "user", "content": "x"}]}).encode()
    given: dict[str, Any] = {
        "method": "POST",
        "path": "/v1/chat/completions",
        "headers": {"x-a": "1"},
        "payload": payload,
    }
    return RoutingRequest(**(given | fields))


def test_another_model_changes_who_is_a_candidate_and_the_body() -> None:
    bench = Bench(lambda _request: HookResult(model="large"))
    request = chat("small")
    assert bench.decide(request).endpoints == "10.0.0.2:8000"
    assert request.changes is not None
    assert json.loads(request.changes.body or b"")["model"] == "large"


def test_another_model_that_nobody_serves_is_not_found() -> None:
    with pytest.raises(ModelNotFound, match="nobodys"):
        Bench(lambda _request: HookResult(model="nobodys")).decide(chat("small"))


def test_headers_that_a_hook_sets_are_there_for_policies() -> None:
    bench = Bench(lambda _request: HookResult(set_headers={"x-b": "2"}))
    request = chat()
    bench.decide(request)
    assert bench.seen == [{"x-a": "1", "x-b": "2"}]
    assert request.changes is not None
    assert request.changes.headers == (("x-b", "2"),)


@pytest.mark.parametrize(("path", "needs_body", "expected"), [
    ("/v1/chat/completions", True, True),
    ("/v1/chat/completions", False, False),
    ("/v1/models", True, False),
])  # fmt: skip
def test_bodies_are_read_on_known_paths_where_a_hook_asks_for_them(path: str, needs_body: bool, expected: bool) -> None:
    directing = Directing(
        fleet=FleetView(Published(worker(1))),
        prompts=Reading().reader,
        policies={"default": RoundRobin},
        hooks=(("hook", Hook(lambda _request: None, needs_body=needs_body)),),
    )
    assert directing.director.needs_body("POST", path) is expected


def test_hooks_see_requests_without_a_body_too() -> None:
    seen: list[HookRequest] = []
    bench = Bench(seen.append)
    bench.decide(RoutingRequest(method="GET", path="/v1/models", headers={}))
    assert [(one.method, one.body, one.model) for one in seen] == [("GET", None, None)]


def test_a_refusal_is_answered_and_nothing_is_counted_in_flight() -> None:
    bench = Bench(lambda _request: HookResult(refuse_status=451, refuse_message="not here"))
    with pytest.raises(HookRefusal) as refused:
        bench.decide(chat())
    assert (refused.value.status, refused.value.message) == (451, "not here")
    assert bench.directing.in_flight == {}


def test_a_hook_comes_before_what_is_wrong_with_a_body() -> None:
    seen: list[HookRequest] = []
    bench = Bench(seen.append)
    with pytest.raises(InvalidRequest):
        bench.decide(chat(payload=b"no json"))
    assert [one.body for one in seen] == [b"no json"]


def fails(_request: HookRequest) -> Answer:
    raise ValueError


def test_a_hook_that_fails_is_passed_over_or_refuses_as_configured() -> None:
    assert Bench(fails).decide(chat()).endpoints == "10.0.0.1:8000"
    refusing = Bench(fails, refuses=True)
    with pytest.raises(HookFailed):
        refusing.decide(chat())
    assert refusing.directing.in_flight == {}


async def test_a_hook_that_waits_delays_the_decision() -> None:
    future: asyncio.Future[HookResult | None] = asyncio.get_running_loop().create_future()
    bench = Bench(lambda _request: future)
    pending = bench.start(chat())
    assert isinstance(pending, asyncio.Future)
    assert bench.seen == []
    future.set_result(HookResult(model="large"))
    assert (await pending).endpoints == "10.0.0.2:8000"


async def test_a_request_that_ends_while_its_hook_waits_leaves_nothing_behind() -> None:
    future: asyncio.Future[HookResult | None] = asyncio.get_running_loop().create_future()
    bench = Bench(lambda _request: future)
    pending = bench.start(chat())
    assert isinstance(pending, asyncio.Future)
    pending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pending
    assert (bench.seen, bench.directing.in_flight) == ([], {})
