import asyncio
from random import Random
from typing import Self

import pytest
from prometheus_client import CollectorRegistry

from extproc.config.fleet import FleetSettings
from extproc.fleet.health.prober import HealthProber
from extproc.fleet.worker import WorkerKey
from extproc.telemetry.metrics import Metrics
from tests.support.workers_http import FakeWorker, answering, serving, until

SETTINGS = FleetSettings(health_interval_secs=0.05, health_timeout_secs=0.25)


class Results:
    """What a prober has reported, and the prober that reports it."""

    def __init__(self, settings: FleetSettings = SETTINGS) -> None:
        self.metrics = Metrics()
        self.log: list[tuple[str, bool]] = []
        self.prober = HealthProber(
            settings=settings,
            metrics=self.metrics,
            random=Random(1),
            on_result=lambda key, good: self.log.append((key.id, good)),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.prober.close()

    def count(self, worker: str, result: str) -> float:
        registry = CollectorRegistry()
        registry.register(self.metrics.probes)
        labels = {"worker": worker, "result": result}
        return registry.get_sample_value("extproc_health_probes_total", labels) or 0.0


@pytest.mark.parametrize(
    ("status", "good", "result"),
    [
        (200, True, "ok"),
        (204, True, "ok"),
        (302, False, "bad_status"),
        (404, False, "bad_status"),
        (500, False, "bad_status"),
        (503, False, "bad_status"),
    ],
)
async def test_only_a_2xx_answer_is_good(status: int, good: bool, result: str) -> None:
    results = Results()
    worker = FakeWorker()
    worker.status = status
    worker.headers = {"Location": "/elsewhere"}
    async with serving(worker), results:
        results.prober.watch([WorkerKey("w", worker.address)])
        await until(lambda: results.log)
    assert results.log[0] == ("w", good)
    assert results.count("w", result) == len(results.log)
    assert set(worker.paths) == {"/health"}


async def test_a_worker_that_hangs_fails_after_the_timeout() -> None:
    results = Results()
    worker = FakeWorker()
    worker.hanging = True
    async with serving(worker), results:
        results.prober.watch([WorkerKey("w", worker.address)])
        await until(lambda: len(results.log) >= 2)
        assert results.count("w", "timeout") >= 2
        worker.hanging = False
        await until(lambda: results.log[-1] == ("w", True))


async def test_a_refused_connection_is_a_bad_result_and_the_worker_can_come_back() -> None:
    results = Results()
    worker = FakeWorker()
    async with serving(worker):
        port = int(worker.address.rpartition(":")[2])
    async with results:
        results.prober.watch([WorkerKey("w", worker.address)])
        await until(lambda: len(results.log) >= 2)
        assert results.count("w", "unreachable") >= 2
        async with serving(FakeWorker(), port=port):
            await until(lambda: results.log[-1] == ("w", True))
        await until(lambda: results.log[-1] == ("w", False))


async def test_something_that_is_not_http_is_a_bad_result() -> None:
    results = Results()
    async with answering(b"SSH-2.0-OpenSSH_9.2\r\n") as server, results:
        results.prober.watch([WorkerKey("w", server.address)])
        await until(lambda: results.log)
    assert results.log[0] == ("w", False)
    assert results.count("w", "unreachable") == len(results.log)


async def test_every_probe_uses_a_connection_of_its_own() -> None:
    results = Results()
    worker = FakeWorker()
    async with serving(worker), results:
        results.prober.watch([WorkerKey("w", worker.address)])
        await until(lambda: len(worker.paths) >= 4)
    assert len(worker.connections) == len(worker.paths)


async def test_watches_exactly_the_workers_it_was_told_last() -> None:
    results = Results()
    worker = FakeWorker()
    async with serving(worker), results:
        one, two = WorkerKey("one", worker.address), WorkerKey("two", worker.address)
        results.prober.watch([one])
        await until(lambda: ("one", True) in results.log)
        results.prober.watch([two])
        results.log.clear()
        await until(lambda: len(results.log) >= 4)
        results.prober.watch([])
        results.log.clear()
        await asyncio.sleep(0.12)
    assert not results.log


async def test_a_worker_that_hangs_has_one_probe_at_a_time_and_delays_no_other() -> None:
    results = Results(FleetSettings(health_interval_secs=0.05, health_timeout_secs=30))
    good, dead = FakeWorker(), FakeWorker()
    dead.hanging = True
    async with serving(good), serving(dead), results:
        results.prober.watch([WorkerKey("good", good.address), WorkerKey("dead", dead.address)])
        await until(lambda: results.log.count(("good", True)) >= 5)
        assert len(dead.paths) == 1
    assert ("dead", True) not in results.log


async def test_a_server_is_probed_once_for_all_its_ranks() -> None:
    results, worker = Results(), FakeWorker()
    async with serving(worker), results:
        ranks = [WorkerKey(f"w/{rank}", worker.address, rank, 3) for rank in range(3)]
        results.prober.watch(ranks)
        await until(lambda: len(results.log) >= 6)
    assert results.log[:6] == [("w/0", True), ("w/1", True), ("w/2", True)] * 2
    assert len(results.log) <= 3 * len(worker.paths)
    assert results.count("w/1", "ok") == len(results.log) / 3


async def test_a_rank_that_comes_to_a_server_is_probed_at_once() -> None:
    results = Results(FleetSettings(health_interval_secs=600, health_timeout_secs=30))
    worker = FakeWorker()
    async with serving(worker), results:
        one, two = WorkerKey("one", worker.address), WorkerKey("two", worker.address)
        results.prober.watch([one])
        await until(lambda: results.log)
        results.prober.watch([one, two])
        await until(lambda: ("two", True) in results.log)
