import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from time import monotonic

import msgspec

from extproc.config.fleet import FleetSettings, WorkerSpec
from extproc.fleet.registry import FleetRegistry
from extproc.fleet.worker import Fleet, Worker, WorkerKey
from extproc.observer.observer import Observer
from extproc.observer.publisher import Publisher
from extproc.telemetry.metrics import Metrics
from extproc.telemetry.tasks import spawn
from tests.support.workers_http import until

A, B = WorkerSpec(id="a", address="10.0.0.1:1"), WorkerSpec(id="b", address="10.0.0.2:1")


class Surroundings:
    """The shared memory, Envoy's file and the prober of an observer."""

    def __init__(self) -> None:
        self.in_flight = [0] * 8
        self.documents: list[tuple[Worker, ...]] = []
        self.endpoints: Sequence[Worker] = ()
        self.endpoint_error: OSError | None = None
        self.probed: set[WorkerKey] = set()
        self.observer = self.make_observer(restored=None)

    def make_observer(self, *, restored: Fleet | None) -> Observer:
        registry = FleetRegistry(settings=FleetSettings(unhealthy_threshold=1), restored=restored)
        publisher = Publisher(
            document=self, endpoints=self, metrics=Metrics(), before=None if restored is None else restored.workers
        )
        return Observer(
            registry=registry,
            publisher=publisher,
            in_flight=lambda: self.in_flight,
            watch=self.watch,
            clock=monotonic,
        )

    def publish(self, data: bytes) -> int:
        self.documents.append(msgspec.json.decode(data, type=Fleet).workers)
        return len(self.documents)

    def write(self, workers: Sequence[Worker]) -> bool:
        if self.endpoint_error:
            raise self.endpoint_error
        self.endpoints = workers
        return True

    def watch(self, workers: Collection[WorkerKey]) -> None:
        self.probed = set(workers)

    @property
    def states(self) -> dict[str, str]:
        return {worker.id: worker.state if worker.healthy else "unhealthy" for worker in self.documents[-1]}


@asynccontextmanager
async def running(surroundings: Surroundings, *specs: WorkerSpec) -> AsyncIterator[Observer]:
    observer = surroundings.observer
    observer.take_list(specs)
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
        observer.take_list([A])
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
    surroundings.observer = surroundings.make_observer(restored=Fleet(workers=last))
    async with running(surroundings, B, A):
        assert surroundings.documents[-1] == last
