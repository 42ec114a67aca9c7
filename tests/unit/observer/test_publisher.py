from collections.abc import Sequence

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from extproc.config.models import ModelSpec
from extproc.fleet.worker import Fleet, Worker
from extproc.observer.publisher import Publisher, one_per_address
from extproc.telemetry.metrics import Metrics
from tests.support.fleets import ranks_of, worker

Note = tuple[str, dict[str, str]]


def shown(workers: Sequence[Worker]) -> dict[str, str]:
    return {worker.id: worker.state if worker.healthy else "unhealthy" for worker in workers}


class Audience:
    """Routers and Envoy, writing down in order what they are told."""

    def __init__(self) -> None:
        self.log: list[Note] = []
        self.models: tuple[ModelSpec, ...] = ()
        self.endpoints: list[Worker] = []
        self.endpoint_error: OSError | None = None
        self.document_error: ValueError | None = None

    def publish(self, data: bytes) -> int:
        if self.document_error:
            raise self.document_error
        fleet = msgspec.json.decode(data, type=Fleet)
        self.models = fleet.models
        self.log.append(("routers", shown(fleet.workers)))
        return len(self.log)

    def write(self, workers: Sequence[Worker]) -> bool:
        if self.endpoint_error:
            raise self.endpoint_error
        if list(workers) == self.endpoints:
            return False
        self.endpoints = list(workers)
        self.log.append(("envoy", shown(workers)))
        return True


class Case:
    def __init__(self, before: Fleet | None = None) -> None:
        self.audience = Audience()
        self.metrics = Metrics()
        self.publisher = Publisher(document=self.audience, endpoints=self.audience, metrics=self.metrics, before=before)

    def publish(self, *workers: Worker, models: tuple[ModelSpec, ...] = ()) -> list[Note]:
        self.audience.log.clear()
        self.publisher.publish(Fleet(workers=workers, models=models))
        return self.audience.log

    def fallbacks(self, reason: str) -> float:
        registry = CollectorRegistry()
        registry.register(self.metrics.fallbacks)
        return registry.get_sample_value("extproc_fallbacks_total", {"reason": reason}) or 0.0


def test_envoy_learns_of_a_worker_before_the_routers_do() -> None:
    case = Case()
    case.publish(worker(0))
    assert case.publish(worker(0), worker(1)) == [
        ("envoy", {"w0": "active", "w1": "active"}),
        ("routers", {"w0": "active", "w1": "active"}),
    ]


@pytest.mark.parametrize("closed", [worker(1, draining=True), worker(1, healthy=False)], ids=["draining", "unhealthy"])
def test_routers_stop_before_envoy_is_told(closed: Worker) -> None:
    case = Case()
    case.publish(worker(0), worker(1))
    told = {"w0": "active", "w1": "draining" if closed.healthy else "unhealthy"}
    assert case.publish(worker(0), closed) == [("routers", told), ("envoy", told)]


def test_a_worker_that_is_gone_leaves_the_routers_first() -> None:
    case = Case()
    case.publish(worker(0), worker(1, draining=True))
    assert case.publish(worker(0)) == [("routers", {"w0": "active"}), ("envoy", {"w0": "active"})]


def test_what_opens_and_what_closes_at_once_goes_in_two_steps_to_envoy() -> None:
    case = Case()
    case.publish(worker(0))
    assert case.publish(worker(0, draining=True), worker(1)) == [
        ("envoy", {"w0": "active", "w1": "active"}),
        ("routers", {"w0": "draining", "w1": "active"}),
        ("envoy", {"w0": "draining", "w1": "active"}),
    ]


def test_an_empty_fleet_is_a_fleet() -> None:
    case = Case()
    assert case.publish() == [("routers", {})]


def test_a_restored_fleet_is_not_published_again_but_envoy_is_brought_up_to_it() -> None:
    models = (ModelSpec(name="m"),)
    case = Case(Fleet(workers=(worker(0),), models=models))
    assert case.publish(worker(0), models=models) == [("envoy", {"w0": "active"})]
    assert case.publish(worker(0), models=models) == []


def test_models_are_for_the_routers_only() -> None:
    case = Case()
    case.publish(worker(0))
    assert case.publish(worker(0), models=(ModelSpec(name="m"),)) == [("routers", {"w0": "active"})]
    assert case.audience.models == (ModelSpec(name="m"),)
    assert case.publish(worker(0), models=(ModelSpec(name="m"),)) == []


def test_an_endpoint_file_that_cannot_be_written_stops_nothing_and_is_tried_again() -> None:
    case = Case()
    case.audience.endpoint_error = OSError(28, "No space left on device")
    assert case.publish(worker(0)) == [("routers", {"w0": "active"})]
    assert case.publisher.behind
    assert case.fallbacks("endpoint_file") == 2
    case.audience.endpoint_error = None
    case.publisher.retry()
    assert case.audience.log[-1] == ("envoy", {"w0": "active"})
    assert not case.publisher.behind


def test_a_fault_is_logged_when_it_begins_and_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    case = Case()
    case.audience.endpoint_error = OSError(28, "No space left on device")
    case.publish(worker(0))
    for _ in range(20):
        case.publisher.retry()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    case.audience.endpoint_error = None
    for _ in range(2):
        case.publisher.retry()
    assert caplog.messages[1:] == ["Wrote the endpoint file after all"]
    case.audience.endpoint_error = OSError(28, "No space left on device")
    case.publish(worker(1))
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO", "ERROR"]


def test_a_document_that_cannot_be_published_leaves_envoy_with_what_routers_still_use() -> None:
    case = Case()
    case.publish(worker(0))
    case.audience.document_error = ValueError("too long")
    case.publish(worker(0, draining=True), worker(1))
    assert case.publisher.behind
    assert case.fallbacks("fleet_document") == 1
    assert shown(case.audience.endpoints) == {"w0": "active", "w1": "active"}
    case.audience.document_error = None
    case.publisher.retry()
    assert case.audience.log[-2:] == [
        ("routers", {"w0": "draining", "w1": "active"}),
        ("envoy", {"w0": "draining", "w1": "active"}),
    ]


def test_an_address_is_listed_once_and_as_the_worker_that_may_be_chosen() -> None:
    old = Worker(id="old", address="10.0.0.1:1", slot=0, state="draining")
    new = Worker(id="new", address="10.0.0.1:1", slot=1)
    assert one_per_address([new, old]) == one_per_address([old, new]) == [new]


def test_a_server_is_healthy_while_any_of_its_ranks_is_and_takes_requests_while_any_does() -> None:
    ranks = ranks_of(1, 3)
    dead = [msgspec.structs.replace(one, healthy=False) for one in ranks]
    leaving = [msgspec.structs.replace(one, state="draining") for one in ranks]
    assert [(one.healthy, one.state) for one in one_per_address([dead[0], ranks[1], leaving[2]])] == [(True, "active")]
    assert [(one.healthy, one.state) for one in one_per_address([dead[0], leaving[1], dead[2]])] == [(True, "draining")]
    assert [one.healthy for one in one_per_address(dead)] == [False]
