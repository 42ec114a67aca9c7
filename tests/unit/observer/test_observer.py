import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from time import monotonic

import msgspec
import pytest

from extproc.config.fleet import FleetSettings, WorkerSpec
from extproc.config.load import Lists
from extproc.config.models import ModelSpec
from extproc.fleet.registry import FleetRegistry
from extproc.fleet.worker import Fleet, Worker, WorkerKey
from extproc.observer.observer import Observer
from extproc.observer.publisher import Publisher
from extproc.telemetry.metrics import Metrics
from extproc.telemetry.tasks import spawn
from tests.support.workers_http import until

A, B = WorkerSpec(id="a", address="10.0.0.1:1"), WorkerSpec(id="b", address="10.0.0.2:1")
M, N = ModelSpec(name="m"), ModelSpec(name="n")


class Surroundings:
    """The shared memory, Envoy's file and the prober of an observer."""

    def __init__(self) -> None:
        self.in_flight = [0] * 8
        self.documents: list[Fleet] = []
        self.endpoints: Sequence[Worker] = ()
        self.endpoint_error: OSError | None = None
        self.probed: set[WorkerKey] = set()
        self.engine_events: list[tuple[str, str, int]] = []
        self.changed_workers: list[Worker] = []
        self.observer = self.make_observer(restored=None)

    def make_observer(self, *, restored: Fleet | None) -> Observer:
        registry = FleetRegistry(settings=FleetSettings(unhealthy_threshold=1), restored=restored)
        publisher = Publisher(document=self, endpoints=self, metrics=Metrics(), before=restored)
        return Observer(
            registry=registry,
            publisher=publisher,
            in_flight=lambda: self.in_flight,
            watch=self.watch,
            clock=monotonic,
            models=() if restored is None else restored.models,
            engines=self,
        )

    def placed(self, worker: Worker) -> None:
        self.engine_events.append(("placed", worker.id, len(self.documents)))

    def changed(self, worker: Worker) -> None:
        self.changed_workers.append(worker)

    def recovered(self, worker: Worker) -> None:
        self.engine_events.append(("recovered", worker.id, len(self.documents)))

    def gone(self, worker: Worker) -> None:
        self.engine_events.append(("gone", worker.id, len(self.documents)))

    def publish(self, data: bytes) -> int:
        self.documents.append(msgspec.json.decode(data, type=Fleet))
        return len(self.documents)

    def write(self, workers: Sequence[Worker]) -> bool:
        if self.endpoint_error:
            raise self.endpoint_error
        self.endpoints = workers
        return True

    def watch(self, workers: Collection[WorkerKey]) -> None:
        self.probed = set(workers)

    def published_models(self, models: tuple[ModelSpec, ...]) -> bool:
        return self.documents[-1].models == models

    @property
    def states(self) -> dict[str, str]:
        return {worker.id: worker.state if worker.healthy else "unhealthy" for worker in self.documents[-1].workers}


@asynccontextmanager
async def running(
    surroundings: Surroundings, *specs: WorkerSpec, models: tuple[ModelSpec, ...] = ()
) -> AsyncIterator[Observer]:
    observer = surroundings.observer
    observer.take_lists(Lists(specs, models))
    observer.publish()
    task = spawn(observer.run(), name="observer")
    try:
        yield observer
        assert not task.done()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_publishes_before_it_runs() -> None:
    surroundings = Surroundings()
    async with running(surroundings, A, B):
        assert surroundings.states == {"a": "active", "b": "active"}
        assert surroundings.probed == {WorkerKey("a", A.address), WorkerKey("b", B.address)}


async def test_many_results_in_one_turn_are_one_document() -> None:
    surroundings = Surroundings()
    async with running(surroundings, A, B) as observer:
        before = len(surroundings.documents)
        for spec in (A, B):
            observer.take_result(WorkerKey(spec.id, spec.address), False)
        await until(lambda: surroundings.states == {"a": "unhealthy", "b": "unhealthy"})
        assert len(surroundings.documents) == before + 1


async def test_results_that_change_nothing_publish_nothing() -> None:
    surroundings = Surroundings()
    async with running(surroundings, A) as observer:
        before = len(surroundings.documents)
        for _ in range(10):
            observer.take_result(WorkerKey("a", A.address), True)
            await asyncio.sleep(0)
        assert len(surroundings.documents) == before


async def test_a_removed_worker_drains_and_goes_when_its_requests_are_finished() -> None:
    surroundings = Surroundings()
    async with running(surroundings, A, B) as observer:
        slot = {worker.id: worker.slot for worker in observer.workers()}["b"]
        surroundings.in_flight[slot] = 1
        observer.take_lists(Lists((A,)))
        await until(lambda: surroundings.states == {"a": "active", "b": "draining"})
        assert {worker.id for worker in surroundings.endpoints} == {"a", "b"}
        surroundings.in_flight[slot] = 0
        await until(lambda: surroundings.states == {"a": "active"})
        await until(lambda: {worker.id for worker in surroundings.endpoints} == {"a"})
        assert surroundings.probed == {WorkerKey("a", A.address)}


async def test_the_endpoint_file_is_written_again_until_it_works() -> None:
    surroundings = Surroundings()
    surroundings.endpoint_error = OSError(30, "Read-only file system")
    async with running(surroundings, A):
        assert surroundings.states == {"a": "active"}
        assert surroundings.endpoints == ()
        surroundings.endpoint_error = None
        await until(lambda: [worker.id for worker in surroundings.endpoints] == ["a"])


async def test_a_successor_goes_on_with_slots_and_health() -> None:
    surroundings = Surroundings()
    async with running(surroundings, A, B) as observer:
        observer.take_result(WorkerKey("b", B.address), False)
        await until(lambda: surroundings.states["b"] == "unhealthy")
    last = surroundings.documents[-1]
    surroundings.observer = surroundings.make_observer(restored=last)
    async with running(surroundings, B, A):
        assert surroundings.documents[-1] == last


async def test_a_change_of_models_alone_is_a_new_document(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    surroundings = Surroundings()
    async with running(surroundings, A, models=(M,)) as observer:
        assert [fleet.models for fleet in surroundings.documents] == [(M,)]
        for wanted in ((M, N), (dataclasses.replace(M, block_size=32), N), (N,)):
            observer.take_lists(Lists((A,), wanted))
            await until(partial(surroundings.published_models, wanted))
            assert surroundings.states == {"a": "active"}
    assert len(surroundings.documents) == 4
    assert caplog.messages[-3:] == ["Model n is added", "Model m is changed: block_size", "Model m is gone"]


async def test_equal_lists_publish_nothing() -> None:
    surroundings = Surroundings()
    async with running(surroundings, A, models=(M,)) as observer:
        observer.take_lists(Lists((A,), (dataclasses.replace(M),)))
        observer.take_lists(Lists((A,), (dataclasses.replace(M),)))
        observer.publish()
        assert len(surroundings.documents) == 1


async def test_models_stay_when_workers_change() -> None:
    surroundings = Surroundings()
    async with running(surroundings, A, models=(M, N)) as observer:
        observer.take_result(WorkerKey("a", A.address), False)
        await until(lambda: surroundings.states == {"a": "unhealthy"})
        assert surroundings.documents[-1].models == (M, N)


async def test_a_successor_goes_on_with_the_models_before_it_has_read_a_list() -> None:
    surroundings = Surroundings()
    async with running(surroundings, A, models=(M,)):
        pass
    successor = surroundings.make_observer(restored=surroundings.documents[-1])
    successor.publish()
    assert len(surroundings.documents) == 1
    successor.take_result(WorkerKey("a", A.address), False)
    successor.publish()
    assert (surroundings.states, surroundings.documents[-1].models) == ({"a": "unhealthy"}, (M,))


def test_whoever_keeps_engines_is_told_of_entries_that_change() -> None:
    bench = Surroundings()
    bench.observer.take_lists(Lists((WorkerSpec("10.0.0.1:1"),), ()))
    bench.observer.publish()
    assert bench.changed_workers == []
    bench.observer.take_lists(Lists((WorkerSpec("10.0.0.1:1", models=("m",)),), ()))
    bench.observer.publish()
    assert [worker.models for worker in bench.changed_workers] == [("m",)]
