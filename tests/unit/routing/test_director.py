"""Parse as far as needed, filter, choose, account."""

import asyncio
import gc
import json
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from extproc.api.body import RequestBody
from extproc.api.request import RoutingRequest
from extproc.config.models import ModelSpec
from extproc.errors import BodyUnavailable, InvalidRequest, ModelNotFound, NoEndpoint, Refusal
from extproc.fleet.candidates import Candidates
from extproc.fleet.view import FleetView
from extproc.fleet.worker import Fleet, Worker
from extproc.models.reader import LONG_BODY_BYTES
from extproc.policies.base import Choice, Needs, PolicyContext, Reason
from extproc.policies.round_robin import RoundRobin
from extproc.routing.accounting import Flight
from extproc.routing.decision import Decision
from extproc.routing.director import RequestRecorder
from extproc.tokens.prompt_tokens import PromptTokens
from tests.support.directors import Directing, Published
from tests.support.fleets import worker
from tests.support.readers import Gated, Reading, make_spec


class ReadsBodies(RoundRobin):
    """A policy that looks into bodies."""

    needs = Needs.BODY


class Bench:
    def __init__(
        self,
        *workers: Worker,
        reads_bodies: bool = False,
        single: bool = False,
        policy: type[RoundRobin] | None = None,
        recorder: RequestRecorder | None = None,
        guards_cache_events: bool = False,
    ) -> None:
        self.published = Published(*workers)
        self.directing = Directing(
            fleet=FleetView(self.published),
            prompts=Reading().reader,
            policies={"default": policy or (ReadsBodies if reads_bodies else RoundRobin)},
            single_endpoint=single,
            recorder=recorder,
            guards_cache_events=guards_cache_events,
        )
        self.director = self.directing.director
        self.metrics = self.directing.metrics

    def decide(self, request: RoutingRequest) -> Decision:
        """Decide as the exchange does: what is needed is settled first."""
        request.body_needed = self.director.needs_body(request.method, request.path)
        decision = self.director.decide(request)
        assert isinstance(decision, Decision)
        return decision


def chat(body: dict[str, Any] | bytes | None = None, **fields: Any) -> RoutingRequest:  # noqa: ANN401
    payload = body if isinstance(body, bytes) or body is None else json.dumps({"messages": [], **body}).encode()
    return RoutingRequest(method="POST", path="/v1/chat/completions", headers={}, payload=payload, **fields)


TINY, OTHER = ("tiny",), ("other",)


def test_names_the_first_choice_and_its_fall_backs_and_counts_the_first() -> None:
    bench = Bench(worker(1), worker(2))
    decision = bench.decide(chat())
    assert decision.endpoints == "10.0.0.1:8000,10.0.0.2:8000"
    assert bench.directing.in_flight == {1: 1}


def test_names_one_endpoint_where_the_data_plane_takes_one() -> None:
    assert Bench(worker(1), worker(2), single=True).decide(chat()).endpoints == "10.0.0.1:8000"


@pytest.mark.parametrize(
    ("models", "reads_bodies", "path", "expected"),
    [
        ((), False, "/v1/chat/completions", False),
        (TINY, False, "/v1/chat/completions", True),
        ((), True, "/v1/chat/completions", True),
        (TINY, True, "/v1/models", False),
    ],
    ids=["nobody asks", "workers declare models", "policy asks", "no body to read"],
)
def test_reads_the_body_only_when_somebody_needs_it(
    models: tuple[str, ...], reads_bodies: bool, path: str, expected: bool
) -> None:
    bench = Bench(worker(1, models=models), reads_bodies=reads_bodies)
    assert bench.director.needs_body("POST", path) is expected


def test_a_request_goes_to_the_workers_of_its_model() -> None:
    bench = Bench(worker(1, models=TINY), worker(2, models=OTHER), worker(3))
    assert bench.decide(chat({"model": "other"})).endpoints == "10.0.0.2:8000,10.0.0.3:8000"


def test_a_request_without_a_body_to_read_goes_to_anybody() -> None:
    bench = Bench(worker(1, models=TINY), worker(2, models=OTHER))
    request = RoutingRequest(method="GET", path="/v1/models", headers={})
    assert bench.decide(request).endpoints == "10.0.0.1:8000,10.0.0.2:8000"


@pytest.mark.parametrize(
    ("request_", "refusal", "param"),
    [
        (chat({"model": "nobodys"}), ModelNotFound, "model"),
        (chat({"model": 1}), InvalidRequest, "model"),
        (chat(b"nonsense"), InvalidRequest, None),
        (chat(), InvalidRequest, None),
        (chat({"model": "other"}), NoEndpoint, None),
        (chat({"model": "tiny"}, subset=()), NoEndpoint, None),
        (chat({"model": "tiny"}, subset=("10.0.0.2:8000",)), NoEndpoint, None),
        (chat({"model": "tiny"}, body_withheld=True), BodyUnavailable, None),
        (chat(b'{"mod', truncated=True), BodyUnavailable, None),
    ],
    ids=[
        "unknown model",
        "wrong model",
        "no JSON",
        "no body",
        "none healthy",
        "empty subset",
        "subset of another model",
        "body withheld",
        "body truncated",
    ],
)
def test_refuses_what_cannot_be_routed(request_: RoutingRequest, refusal: type[Refusal], param: str | None) -> None:
    bench = Bench(worker(1, models=TINY), worker(2, models=OTHER, healthy=False))
    with pytest.raises(refusal) as refused:
        bench.decide(request_)
    assert refused.value.param == param
    assert sum(bench.directing.in_flight.values()) == 0


def test_no_request_changes_what_engines_report_of_their_caches_while_that_is_followed() -> None:
    asked = {"model": "tiny", "vllm_xargs": {"kv_cache_report_mode": "full"}}
    assert Bench(worker(1, models=TINY)).decide(chat(asked)).worker.id == "w1"
    bench = Bench(worker(1, models=TINY), guards_cache_events=True)
    with pytest.raises(InvalidRequest) as refused:
        bench.decide(chat(asked))
    assert refused.value.param == "vllm_xargs.kv_cache_report_mode"
    for others in (None, {}, {"n": 1}):
        assert bench.decide(chat({"model": "tiny", "vllm_xargs": others})).worker.id == "w1"


def test_a_body_that_may_be_cut_short_but_is_whole_is_read() -> None:
    bench = Bench(worker(1, models=TINY), worker(2, models=OTHER))
    assert bench.decide(chat({"model": "tiny"}, truncated=True)).endpoints == "10.0.0.1:8000"


def test_a_fleet_without_workers_knows_of_no_model_and_says_come_back() -> None:
    bench = Bench(reads_bodies=True)
    with pytest.raises(NoEndpoint):
        bench.decide(chat({"model": "tiny"}))


def test_a_body_the_data_plane_keeps_back_is_done_without_where_any_worker_will_do() -> None:
    bench = Bench(worker(1), reads_bodies=True)
    assert bench.decide(chat(body_withheld=True)).endpoints == "10.0.0.1:8000"
    assert bench.metrics.fallbacks.labels("body_withheld")._value.get() == 1


@pytest.mark.parametrize("changed", [worker(1, healthy=False), worker(1, draining=True)], ids=["unhealthy", "draining"])
def test_follows_the_published_fleet(changed: Worker) -> None:
    bench = Bench(worker(1), worker(2))
    bench.published.publish(changed, worker(2))
    assert [bench.decide(chat()).endpoints for _ in range(3)] == ["10.0.0.2:8000"] * 3


def test_a_fleet_that_begins_to_declare_models_does_not_fail_requests_under_way() -> None:
    bench = Bench(worker(1))
    request = chat()
    request.body_needed = bench.director.needs_body(request.method, request.path)
    bench.published.publish(worker(1, models=TINY))
    decision = bench.director.decide(request)
    assert isinstance(decision, Decision)
    assert decision.endpoints == "10.0.0.1:8000"


def test_a_policy_is_given_the_parsed_body() -> None:
    seen: list[str] = []

    class Recording(ReadsBodies):
        def choose(self, request: RoutingRequest, candidates: Any) -> Choice:  # noqa: ANN401
            assert request.body is not None
            seen.append(request.body.model)
            return Choice((candidates[0],), Reason.ROUND_ROBIN)

    bench = Bench(worker(1), policy=Recording)
    bench.decide(chat({"model": "tiny"}))
    assert seen == ["tiny"]


HELLO = [{"role": "user", "content": "Hello, world!"}]


class Seeing(RoundRobin):
    """A policy that remembers the prompts it was shown."""

    def __init__(self, context: PolicyContext) -> None:
        super().__init__(context)
        self.seen: list[tuple[PromptTokens, ...]] = []

    def choose(self, request: RoutingRequest, candidates: Candidates) -> Choice:
        self.seen.append(request.prompts)
        return super().choose(request, candidates)


class SeeingBodies(Seeing):
    needs = Needs.BODY


class SeeingTokens(Seeing):
    needs = Needs.TOKENS


class TokenBench:
    """A director over workers 1 and 2, with a configured model."""

    def __init__(
        self,
        *specs: ModelSpec,
        always: bool = False,
        policy: type[Seeing] = SeeingTokens,
        **settings: Any,  # noqa: ANN401
    ) -> None:
        self.specs = specs
        self.published = Published()
        self.publish(worker(1), worker(2))
        self.reading = Reading(*specs, encode_threads=1, **settings)
        self.directing = Directing(
            fleet=FleetView(self.published),
            prompts=self.reading.reader,
            policies={"default": policy},
            always_tokenize=always,
        )
        self.director = self.directing.director
        made = self.directing.policies["default"]
        assert isinstance(made, Seeing)
        self.policy = made

    def publish(self, *workers: Worker) -> None:
        self.published.generation += 1
        self.published._document = msgspec.json.encode(Fleet(workers=workers, models=self.specs))

    def start(self, request: RoutingRequest) -> "Decision | asyncio.Future[Decision]":
        request.body_needed = self.director.needs_body(request.method, request.path)
        return self.director.decide(request)

    def later(self, request: RoutingRequest) -> "asyncio.Future[Decision]":
        """Start a decision that waits for a thread."""
        future = self.start(request)
        assert isinstance(future, asyncio.Future)
        return future

    def gate(self) -> threading.Event:
        """Let nothing be encoded until the event is set."""
        shelved = self.reading.shelf.find(self.specs[0].name)
        assert shelved is not None
        assert shelved.model is not None
        encoder = Gated(shelved.model.cache.encoder)
        shelved.model.cache.encoder = encoder
        return encoder.gate

    def close(self) -> None:
        self.reading.reader.close()


def question(model: str = "qwen", messages: Any = HELLO) -> RoutingRequest:  # noqa: ANN401
    return chat({"model": model, "messages": messages})


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    return make_spec(tmp_path, "qwen", aliases=("alias",))


@pytest.mark.parametrize(
    ("always", "policy", "expected"),
    [
        (False, SeeingTokens, True),
        (True, Seeing, True),
        (True, SeeingBodies, True),
        (False, SeeingBodies, False),
        (False, Seeing, False),
    ],
    ids=["policy needs tokens", "always", "always beside bodies", "policy needs bodies", "nobody needs them"],
)
def test_prompts_are_tokenized_where_somebody_wants_tokens(
    always: bool, policy: type[Seeing], expected: bool, spec: ModelSpec
) -> None:
    bench = TokenBench(spec, always=always, policy=policy)
    request = question()
    decision = bench.start(request)
    assert isinstance(decision, Decision)
    (seen,) = bench.policy.seen
    assert bool(seen) is expected
    assert seen == request.prompts
    if expected:
        (expected_prompt,) = bench.reading.read("qwen", messages=HELLO)
        assert seen[0].ids.tolist() == expected_prompt.ids.tolist()


def test_the_body_is_needed_for_tokens_only_where_models_are_configured(spec: ModelSpec) -> None:
    for specs, always, policy, expected in (
        ((spec,), True, Seeing, True),
        ((), True, Seeing, False),
        ((spec,), False, Seeing, False),
        ((spec,), False, SeeingTokens, True),
    ):
        bench = TokenBench(*specs, always=always, policy=policy)
        assert bench.director.needs_body("POST", "/v1/chat/completions") is expected
        assert not bench.director.needs_body("GET", "/v1/models")


def test_names_that_are_not_configured_are_routed_without_tokens(spec: ModelSpec) -> None:
    bench = TokenBench(spec)
    for name, cache in (("other", "text"), ("alias", "off")):
        decision = bench.start(question(name))
        assert isinstance(decision, Decision)
        assert [prompt.cache for prompt in bench.policy.seen[-1]] == [cache]
    with pytest.raises(InvalidRequest):
        bench.start(question("other", messages=[{"content": "no role"}]))
    assert sum(bench.directing.in_flight.values()) == 2


def test_a_prompt_that_no_template_takes_is_refused_at_once(spec: ModelSpec) -> None:
    bench = TokenBench(spec)
    with pytest.raises(InvalidRequest, match="no message"):
        bench.start(question(messages=[]))
    assert sum(bench.directing.in_flight.values()) == 0


async def test_a_prompt_that_takes_long_is_decided_later(spec: ModelSpec) -> None:
    bench = TokenBench(spec, inline_secs=0)
    event = bench.gate()
    request = question()
    future = bench.later(request)
    assert (bench.policy.seen, sum(bench.directing.in_flight.values())) == ([], 0)
    event.set()
    decision = await future
    assert decision.endpoints == "10.0.0.1:8000,10.0.0.2:8000"
    assert bench.directing.in_flight == {1: 1}
    assert bench.policy.seen == [request.prompts]
    assert len(request.prompts) == 1
    bench.close()


async def test_a_prompt_that_takes_too_long_is_routed_without_tokens(spec: ModelSpec) -> None:
    bench = TokenBench(spec, inline_secs=0, max_wait_secs=0.01)
    event = bench.gate()
    decision = await bench.later(question())
    assert decision.endpoints == "10.0.0.1:8000,10.0.0.2:8000"
    assert [prompt.cache for prompts in bench.policy.seen for prompt in prompts] == ["text"]
    assert bench.reading.fallbacks("encode_timeout") == 1
    event.set()
    bench.close()


async def test_a_refusal_comes_through_the_future(spec: ModelSpec) -> None:
    bench = TokenBench(spec)
    long = {"role": "user", "content": "x" * LONG_BODY_BYTES}
    future = bench.later(question(messages=[long, {"content": "no role"}]))
    with pytest.raises(InvalidRequest) as refused:
        await future
    assert refused.value.param == "messages[1].role"
    assert (bench.policy.seen, sum(bench.directing.in_flight.values())) == ([], 0)
    bench.close()


async def test_workers_that_went_meanwhile_are_not_chosen(spec: ModelSpec) -> None:
    bench = TokenBench(spec, inline_secs=0)
    event = bench.gate()
    future = bench.later(question())
    bench.publish(worker(1, healthy=False), worker(2), worker(3))
    event.set()
    assert (await future).endpoints == "10.0.0.2:8000,10.0.0.3:8000"
    assert bench.directing.in_flight == {2: 1}
    bench.close()


async def test_where_nobody_is_left_the_request_is_refused(spec: ModelSpec) -> None:
    bench = TokenBench(spec, inline_secs=0)
    event = bench.gate()
    future = bench.later(question())
    bench.publish(worker(1, draining=True))
    event.set()
    with pytest.raises(NoEndpoint):
        await future
    assert sum(bench.directing.in_flight.values()) == 0
    bench.close()


async def test_nobody_to_send_it_to_is_found_out_before_the_prompt_is_read(spec: ModelSpec) -> None:
    bench = TokenBench(spec, inline_secs=0)
    bench.publish(worker(1, healthy=False))
    with pytest.raises(NoEndpoint):
        bench.start(question())
    assert bench.reading.reader._pending == 0


async def test_the_hint_of_the_data_plane_counts_after_waiting_too(spec: ModelSpec) -> None:
    bench = TokenBench(spec, inline_secs=0)
    request = question()
    request.subset = ("10.0.0.2:8000",)
    assert (await bench.later(request)).endpoints == "10.0.0.2:8000"
    bench.close()


async def test_nothing_is_counted_for_a_request_that_ends_before_its_decision(spec: ModelSpec) -> None:
    bench = TokenBench(spec, inline_secs=0)
    event = bench.gate()
    ended, other = bench.later(question()), bench.later(question())
    ended.cancel()
    event.set()
    # There is one thread, so what came first is over by now.
    await other
    assert len(bench.policy.seen) == 1
    assert sum(bench.directing.in_flight.values()) == 1
    bench.close()


class Promised:
    """A source of prompts that come when the test says so."""

    def __init__(self) -> None:
        self.prompts: asyncio.Future[tuple[PromptTokens, ...]] = asyncio.get_running_loop().create_future()

    def read(self, body: RequestBody, name: str) -> "asyncio.Future[tuple[PromptTokens, ...]]":
        return self.prompts


async def test_prompts_of_a_request_that_ends_are_not_waited_for(spec: ModelSpec) -> None:
    bench = TokenBench(spec)
    source = bench.director._prompts = Promised()
    bench.later(question()).cancel()
    await asyncio.sleep(0)
    assert source.prompts.cancelled()


async def test_a_refusal_that_comes_after_the_end_of_its_request_is_not_logged(
    spec: ModelSpec, caplog: pytest.LogCaptureFixture
) -> None:
    bench = TokenBench(spec)
    source = bench.director._prompts = Promised()
    decision = bench.later(question())
    source.prompts.set_exception(InvalidRequest("the template quotes the prompt"))
    decision.cancel()
    await asyncio.sleep(0)
    del source.prompts
    gc.collect()
    assert not caplog.records


class Taken:
    """Records what it is told while ``on``."""

    def __init__(self) -> None:
        self.on = False
        self.taken: list[tuple[str, str, float]] = []

    def began(self) -> float:
        return 5.0 if self.on else 0.0

    def chosen(self, request: RoutingRequest, choice: Choice, *, policy: str, flight: Flight, arrived: float) -> None:
        assert flight.worker is choice.workers[0]
        self.taken.append((request.path, policy, arrived))


def test_requests_that_arrive_while_that_is_wanted_are_recorded_at_their_choice() -> None:
    recorder = Taken()
    bench = Bench(worker(1), recorder=recorder)
    bench.decide(chat())
    recorder.on = True
    bench.decide(chat())
    bench.published.publish()
    with pytest.raises(NoEndpoint):
        bench.decide(chat())
    assert recorder.taken == [("/v1/chat/completions", "round_robin", 5.0)]
