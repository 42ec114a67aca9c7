"""Parse as far as needed, filter, choose, account."""

import json
import random
from typing import Any

import msgspec
import pytest

from extproc.api.request import RoutingRequest
from extproc.errors import BodyUnavailable, InvalidRequest, ModelNotFound, NoEndpoint, Refusal
from extproc.fleet.view import FleetView
from extproc.fleet.worker import Fleet, Worker
from extproc.policies.base import Choice, Needs, PolicyContext, Reason
from extproc.policies.round_robin import RoundRobin
from extproc.routing.decision import Decision
from extproc.routing.director import Director
from extproc.telemetry.metrics import Metrics
from tests.support.fleets import Column, Turns, worker
from tests.support.readers import Reading


class Published:
    """A published fleet in memory."""

    def __init__(self, *workers: Worker) -> None:
        self.generation = 0
        self.publish(*workers)

    def publish(self, *workers: Worker) -> None:
        self.generation += 1
        self._document = msgspec.json.encode(Fleet(workers=workers))

    def read(self) -> tuple[int, bytes]:
        return self.generation, self._document


class ReadsBodies(RoundRobin):
    """A policy that looks into bodies."""

    needs = Needs.BODY


class Bench:
    def __init__(self, *workers: Worker, reads_bodies: bool = False, single: bool = False) -> None:
        self.published = Published(*workers)
        self.column = Column()
        self.metrics = Metrics()
        policy = ReadsBodies if reads_bodies else RoundRobin
        self.director = Director(
            fleet=FleetView(self.published),
            prompts=Reading().reader,
            policy=policy(PolicyContext(max_endpoints=3, rng=random.Random(0), turns=Turns())),
            in_flight=self.column,
            metrics=self.metrics,
            single_endpoint=single,
        )

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
    assert bench.column.counts == {1: 1}


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
    assert bench.column.total == 0


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

    bench = Bench(worker(1))
    bench.director._policy = Recording(PolicyContext(max_endpoints=1, rng=random.Random(0), turns=Turns()))
    bench.decide(chat({"model": "tiny"}))
    assert seen == ["tiny"]
