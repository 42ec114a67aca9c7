"""Hooks see requests, change them, refuse them; and one that fails does no harm, or refuses, as configured."""

import asyncio
import gc
import json
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import pytest

from extproc.api.request import Changes, RoutingRequest
from extproc.config.hooks import HookSettings
from extproc.errors import HookFailed, HookRefusal
from extproc.routing.flow import run_flow
from extproc.routing.hooks import MAX_HEADERS, MAX_TEXT_LENGTH, HookRequest, HookResult, HookRunner
from extproc.telemetry.metrics import Metrics
from tests.support.loops import ClockedLoop

BODY = b'{"model": "tiny", "temperature": 1e-05, "n": 123456789012345678901, "messages": [{"role": "user"}]}'
BUDGET_SECS = 30.0
"""Longer than any test takes, where lateness is not what is tested."""

Action = Callable[[HookRequest], HookResult | Awaitable[HookResult | None] | None]


class Hook:
    """A hook that does what a test says and remembers what it saw."""

    def __init__(self, action: Action = lambda _request: None, *, needs_body: bool = True) -> None:
        self.needs_body = needs_body
        self.action = action
        self.seen: list[HookRequest] = []

    def on_request(self, request: HookRequest) -> HookResult | Awaitable[HookResult | None] | None:
        self.seen.append(request)
        return self.action(request)


def doing(**result: Any) -> Hook:  # noqa: ANN401
    return Hook(lambda _request: HookResult(**result))


class Running:
    """A runner of hooks ``a``, ``b``, ..."""

    def __init__(self, *hooks: Hook, budget_secs: float = BUDGET_SECS, refuses: bool = False) -> None:
        self.metrics = Metrics()
        self.runner = HookRunner(
            hooks=list(zip("abcd", hooks, strict=False)),
            settings=HookSettings(time_budget_secs=budget_secs, on_error="refuse" if refuses else "skip"),
            metrics=self.metrics,
        )

    def start(self, request: RoutingRequest) -> "asyncio.Future[None] | None":
        return run_flow(self.runner.run(request))

    def run(self, **changes: Any) -> RoutingRequest:  # noqa: ANN401
        """Let the hooks see a request, none of which waits."""
        request = asking(**changes)
        assert self.start(request) is None
        return request

    @property
    def results(self) -> dict[tuple[str, str], float]:
        samples = [sample for family in self.metrics.hooks.collect() for sample in family.samples]
        return {(s.labels["hook"], s.labels["result"]): s.value for s in samples if s.name == "extproc_hooks_total"}


def asking(**changes: Any) -> RoutingRequest:  # noqa: ANN401
    fields: dict[str, Any] = {
        "method": "POST",
        "path": "/v1/chat/completions",
        "headers": {"x-tenant": "a"},
        "payload": BODY,
    }
    return RoutingRequest(**(fields | changes))


@pytest.fixture
def loop() -> Iterator[ClockedLoop]:
    loop = ClockedLoop()
    yield loop
    gc.collect()
    loop.settle(lambda: None)
    loop.close()


def test_a_hook_sees_the_request_and_may_leave_it_as_it_is() -> None:
    hook = Hook()
    running = Running(hook)
    request = running.run()
    (seen,) = hook.seen
    assert (seen.method, seen.path, seen.body, seen.model) == ("POST", "/v1/chat/completions", BODY, "tiny")
    assert dict(seen.headers) == {"x-tenant": "a"}
    assert seen.headers.get("x-missing") is None
    assert (request.changes, request.payload) == (None, BODY)
    assert running.results == {("a", "ok"): 1}


def test_a_hook_cannot_reach_into_the_request() -> None:
    def reach(request: HookRequest) -> None:
        request.headers["x-tenant"] = "b"  # type: ignore[index]

    running = Running(Hook(reach))
    assert running.run().headers == {"x-tenant": "a"}
    assert running.results == {("a", "failed"): 1}


@pytest.mark.parametrize("payload", [None, b"", b"no json", b"[1]", b'{"model": 5}', b"\xff", b"[" * 100_000])
def test_where_no_model_can_be_read_there_is_none(payload: bytes | None) -> None:
    hook = Hook()
    Running(hook).run(payload=payload)
    assert (hook.seen[0].model, hook.seen[0].body) == (None, payload)


def test_what_a_hook_sets_is_seen_by_policies_and_later_hooks_and_goes_to_the_worker() -> None:
    first = doing(set_headers={"x-tenant": "b", "x-new": "é"}, metadata={"team": "red"})
    second = doing(set_headers={"x-new": "2"}, metadata={"cost": "high"})
    third = Hook()
    request = Running(first, second, third).run()
    assert dict(third.seen[0].headers) == {"x-tenant": "b", "x-new": "2"}
    assert request.headers == {"x-tenant": "b", "x-new": "2"}
    assert request.changes == Changes(
        headers=(("x-tenant", "b"), ("x-new", "é"), ("x-new", "2")),
        metadata=(("team", "red"), ("cost", "high")),
    )


def test_another_model_is_put_into_the_body_and_the_rest_stays_as_it_came() -> None:
    second = Hook()
    request = Running(doing(model="large"), second).run()
    assert request.payload is not None
    assert json.loads(request.payload) == json.loads(BODY) | {"model": "large"}
    for part in (b"1e-05", b"123456789012345678901", b'[{"role": "user"}]'):
        assert part in request.payload
    assert request.changes == Changes(body=request.payload)
    assert (second.seen[0].model, second.seen[0].body) == ("large", request.payload)


def test_a_body_without_a_model_gets_one() -> None:
    request = Running(doing(model="large")).run(payload=b'{"prompt":"a"}')
    assert json.loads(request.payload or b"") == {"prompt": "a", "model": "large"}


def test_the_same_model_again_changes_nothing() -> None:
    request = Running(doing(model="tiny")).run()
    assert request.payload is BODY
    assert request.changes is None


@pytest.mark.parametrize(("status", "kind"), [(400, "invalid_request_error"), (599, "server_error")])
def test_a_refusal_is_the_hooks_own_status_and_words(status: int, kind: str) -> None:
    later = Hook()
    running = Running(doing(set_headers={"x-a": "1"}, refuse_status=status, refuse_message="no" * 5000), later)
    with pytest.raises(HookRefusal) as refused:
        running.run()
    assert (refused.value.status, refused.value.type, refused.value.reason) == (status, kind, "hook_refused")
    assert refused.value.message == "no" * (MAX_TEXT_LENGTH // 2)
    assert running.results == {("a", "refused"): 1}
    assert later.seen == []


def raises(error: BaseException) -> Action:
    def action(_request: HookRequest) -> None:
        raise error

    return action


UNUSABLE: dict[str, Action] = {
    "raises": raises(ValueError("the secret of a prompt")),
    "exits": raises(SystemExit(1)),
    "no result": lambda _request: {"model": "large"},  # type: ignore[return-value,dict-item]
    "refused status": lambda _request: HookResult(refuse_status=200),
    "refused status too large": lambda _request: HookResult(refuse_status=600),
    "refused status a text": lambda _request: HookResult(refuse_status="403"),  # type: ignore[arg-type]
    "refused status true": lambda _request: HookResult(refuse_status=True),
    "headers no mapping": lambda _request: HookResult(set_headers=[("a", "b")]),  # type: ignore[arg-type]
    "headers not text": lambda _request: HookResult(set_headers={"a": 1}),  # type: ignore[dict-item]
    "names not text": lambda _request: HookResult(set_headers={b"a": "1"}),  # type: ignore[dict-item]
    "too many headers": lambda _request: HookResult(set_headers={f"x{n}": "" for n in range(MAX_HEADERS + 1)}),
    "long value": lambda _request: HookResult(set_headers={"a": "x" * (MAX_TEXT_LENGTH + 1)}),
    "line in a value": lambda _request: HookResult(set_headers={"a": "x\r\ny: z"}),
    "upper case": lambda _request: HookResult(set_headers={"X-A": "1"}),
    "empty name": lambda _request: HookResult(set_headers={"": "1"}),
    "space in a name": lambda _request: HookResult(set_headers={"a b": "1"}),
    "not ascii": lambda _request: HookResult(set_headers={"é": "1"}),
    "pseudo header": lambda _request: HookResult(set_headers={":path": "/"}),
    "destination": lambda _request: HookResult(set_headers={"x-gateway-destination-endpoint": "10.0.0.1:1"}),
    "length": lambda _request: HookResult(set_headers={"content-length": "1"}),
    "envoy's": lambda _request: HookResult(set_headers={"x-envoy-max-retries": "9"}),
    "metadata not text": lambda _request: HookResult(metadata={"a": None}),  # type: ignore[dict-item]
    "model empty": lambda _request: HookResult(model=""),
    "model not text": lambda _request: HookResult(model=5),  # type: ignore[arg-type]
    "model long": lambda _request: HookResult(model="x" * 10_000),
}


@pytest.mark.parametrize("action", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_one_that_fails_is_passed_over_counted_and_told_of_once(
    action: Action, caplog: pytest.LogCaptureFixture
) -> None:
    later = Hook()
    running = Running(Hook(action), later)
    with caplog.at_level(logging.DEBUG):
        for _ in range(2):
            request = running.run()
            assert (request.changes, request.payload, request.headers) == (None, BODY, {"x-tenant": "a"})
    assert running.results == {("a", "failed"): 2, ("b", "ok"): 2}
    (record,) = caplog.records
    assert record.getMessage().startswith("Hook a is passed over: ")
    assert "secret" not in caplog.text


@pytest.mark.parametrize("action", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_where_the_operator_wants_it_so_a_failure_refuses(action: Action) -> None:
    later = Hook()
    running = Running(Hook(action), later, refuses=True)
    with pytest.raises(HookFailed) as refused:
        running.run()
    assert (refused.value.status, refused.value.reason, later.seen) == (500, "hook_failed", [])
    assert running.results == {("a", "failed"): 1}


@pytest.mark.parametrize(
    "changes",
    [{"payload": None}, {"payload": b"no json"}, {"payload": b"[]"}, {"payload": b"[" * 100_000}, {"truncated": True}],
    ids=["no body", "no JSON", "no object", "too deep", "cut short"],
)
def test_another_model_for_a_body_that_cannot_be_written_anew_is_a_failure(changes: dict[str, Any]) -> None:
    running = Running(doing(model="large", set_headers={"x-a": "1"}))
    assert running.run(**changes).changes is None
    assert running.results == {("a", "failed"): 1}


def test_one_whose_answer_comes_late_is_passed_over() -> None:
    running = Running(doing(model="large"), budget_secs=0)
    assert running.run().changes is None
    assert running.results == {("a", "timeout"): 1}
    with pytest.raises(HookFailed):
        Running(doing(model="large"), budget_secs=0, refuses=True).run()


@pytest.mark.parametrize(("needs", "expected"), [((False, False), False), ((False, True), True)])
def test_bodies_are_read_where_a_hook_asks_for_them(needs: tuple[bool, bool], expected: bool) -> None:
    running = Running(*[Hook(needs_body=need) for need in needs])
    assert (running.runner.read_bodies, bool(running.runner)) == (expected, True)
    assert (Running().runner.read_bodies, bool(Running().runner)) == (False, False)


async def test_a_hook_may_wait() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def waits(request: HookRequest) -> HookResult:
        await future
        return HookResult(model=f"{request.model}-large")

    second = Hook()
    running = Running(Hook(waits), second)
    request = asking()
    outcome = running.start(request)
    assert outcome is not None
    assert second.seen == []
    future.set_result(None)
    await outcome
    assert second.seen[0].model == "tiny-large"
    assert running.results == {("a", "ok"): 1, ("b", "ok"): 1}


async def test_a_hook_may_give_a_future_instead_of_a_coroutine() -> None:
    future: asyncio.Future[HookResult] = asyncio.get_running_loop().create_future()
    running = Running(Hook(lambda _request: future))
    request = asking()
    outcome = running.start(request)
    future.set_result(HookResult(model="large"))
    assert outcome is not None
    await outcome
    assert b'"large"' in (request.payload or b"")


def test_one_that_waits_too_long_is_cancelled_and_passed_over(
    loop: ClockedLoop, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[str] = []

    async def waits(_request: HookRequest) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    running = Running(Hook(waits))
    outcome = loop.settle(lambda: running.start(asking()))
    assert outcome is not None
    loop.advance(BUDGET_SECS - 1)
    assert not outcome.done()
    loop.advance(1)
    assert (outcome.done(), ended, running.results) == (True, ["cancelled"], {("a", "timeout"): 1})
    assert [record.name for record in caplog.records] == ["extproc.routing.hooks"]


def test_one_that_does_not_let_itself_be_cancelled_holds_up_nobody(loop: ClockedLoop) -> None:
    release = loop.create_future()

    async def stubborn(_request: HookRequest) -> HookResult:
        while not release.done():
            try:
                await asyncio.shield(release)
            except asyncio.CancelledError:
                continue
        return HookResult(model="large")

    running = Running(Hook(stubborn))
    request = asking()
    outcome = loop.settle(lambda: running.start(request))
    loop.advance(BUDGET_SECS)
    assert outcome is not None
    assert outcome.done()
    loop.settle(lambda: release.set_result(None))
    assert request.changes is None
    assert running.results == {("a", "timeout"): 1}


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (ValueError("the secret of a prompt"), "failed"),
        (SystemExit(1), "failed"),
        (asyncio.CancelledError(), "failed"),
        (TimeoutError(), "timeout"),
    ],
    ids=["error", "exit", "cancelled by itself", "timeout of its own"],
)
def test_one_that_raises_after_waiting_is_passed_over(
    loop: ClockedLoop, error: BaseException, result: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def waits(_request: HookRequest) -> None:
        await asyncio.sleep(0)
        raise error

    running = Running(Hook(waits))
    outcome = loop.settle(lambda: running.start(asking()))
    loop.settle(lambda: None)
    assert outcome is not None
    assert outcome.exception() is None
    assert running.results == {("a", result): 1}
    assert "secret" not in caplog.text


@pytest.mark.parametrize("begun", [True, False], ids=["after it has begun", "at once"])
def test_a_request_that_ends_meanwhile_ends_its_hook(loop: ClockedLoop, begun: bool) -> None:
    ended: list[str] = []

    async def waits(_request: HookRequest) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append("end")

    running = Running(Hook(waits))

    def start() -> "asyncio.Future[None]":
        outcome = running.start(asking())
        assert outcome is not None
        if not begun:
            outcome.cancel()
        return outcome

    outcome = loop.settle(start)
    loop.settle(outcome.cancel)
    assert outcome.cancelled()
    assert ended == ["end"]
    assert running.results == {}


def test_headers_are_those_of_the_message_in_whatever_mapping() -> None:
    class Lazy(Mapping[str, str]):
        def __getitem__(self, name: str) -> str:
            return {"x-tenant": "a"}[name]

        def __iter__(self) -> Iterator[str]:
            return iter(("x-tenant",))

        def __len__(self) -> int:
            return 1

    hook = doing(set_headers={"x-new": "1"})
    request = Running(hook).run(headers=Lazy())
    assert request.headers == {"x-tenant": "a", "x-new": "1"}
