import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from extproc.config.admin import AdminSettings
from extproc.config.discovery import DiscoverySettings
from extproc.config.fleet import FleetSettings, WorkerSpec
from extproc.config.load import Lists, load_lists
from extproc.config.models import ModelSpec
from extproc.config.settings import Settings
from extproc.config.supervisor import SupervisorSettings
from extproc.errors import StartupError
from extproc.fleet.registry import FleetRegistry
from extproc.fleet.view import FleetView
from extproc.fleet.worker import Fleet, Worker
from extproc.observer.main import ObserverProcess, lists_of, read_fleet
from extproc.shm.fleet import FleetDocument
from extproc.shm.processes import ProcessState, ProcessTable, Role
from extproc.shm.worker_table import WorkerTable
from extproc.telemetry.tasks import spawn
from tests.support.fleets import segment_with_index
from tests.support.workers_http import FakeWorker, serving, until


class Service:
    """What an observer finds around it: shared memory, a configuration file, a run directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config_file = directory / "extproc.yaml"
        self.segment = segment_with_index()
        self.table = WorkerTable(self.segment)
        self.view = FleetView(FleetDocument(self.segment))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.admin = f"127.0.0.1:{free.getsockname()[1]}"
        self.settings = Settings(
            supervisor=SupervisorSettings(run_dir=str(directory)),
            admin=AdminSettings(address=self.admin),
            fleet=FleetSettings(reload_interval_secs=0.05, health_interval_secs=0.05, unhealthy_threshold=2),
        )

    def configure(self, *workers: FakeWorker, models: tuple[str, ...] = (), content: str = "") -> None:
        lines = [f"- {{address: '{worker.address}', id: w{index}}}" for index, worker in enumerate(workers)] or ["  []"]
        lines += ["models:", *(f"- {{name: {model}}}" for model in models)] if models else []
        temporary = self.config_file.with_suffix(".new")
        temporary.write_text(content or "workers:\n" + "\n".join(lines) + "\n")
        temporary.replace(self.config_file)

    @property
    def states(self) -> dict[str, str]:
        """What routers know, by address."""
        self.view.refresh()
        return {found.address: found.state if found.healthy else "unhealthy" for found in self.view.workers()}

    @property
    def models(self) -> list[str]:
        """The configured models that routers know."""
        self.view.refresh()
        return [model.name for model in self.view.models]

    @property
    def slots(self) -> dict[str, int]:
        self.view.refresh()
        return {found.address: found.slot for found in self.view.workers()}

    @property
    def endpoints(self) -> dict[str, str]:
        """What Envoy knows, by address."""
        (resource,) = json.loads((self.directory / "eds.json").read_text())["resources"]
        found = {}
        for endpoint in resource["endpoints"][0]["lb_endpoints"]:
            address = endpoint["endpoint"]["address"]["socket_address"]
            found[f"{address['address']}:{address['port_value']}"] = endpoint.get("health_status", "HEALTHY")
        return found

    async def get(self, path: str) -> tuple[int, Any]:
        async with aiohttp.ClientSession() as session, session.get(f"http://{self.admin}{path}") as response:
            return response.status, await response.json()

    @asynccontextmanager
    async def observed(self) -> AsyncIterator[None]:
        """Run an observer while the block runs, from its first fleet on."""
        stop, ready = asyncio.Event(), asyncio.Event()
        process = ObserverProcess(
            settings=replace(self.settings, **load_lists(self.config_file)._asdict()),
            segment=self.segment,
            config_file=self.config_file,
            metric_dir=self.directory,
        )
        task = spawn(process.run(stop=stop, ready=ready.set), name="observer")
        await until(lambda: ready.is_set() or task.done())
        try:
            yield
        finally:
            stop.set()
            await task


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    service = Service(tmp_path)
    yield service
    service.segment.close()


async def test_routers_and_envoy_know_the_fleet_when_it_is_ready(service: Service) -> None:
    async with serving(FakeWorker()) as one, serving(FakeWorker()) as two:
        service.configure(one, two)
        async with service.observed():
            assert service.states == {one.address: "active", two.address: "active"}
            assert service.endpoints == {one.address: "HEALTHY", two.address: "HEALTHY"}


async def test_a_failing_worker_is_taken_out_and_comes_back(service: Service) -> None:
    async with serving(FakeWorker()) as one, serving(FakeWorker()) as two:
        service.configure(one, two)
        async with service.observed():
            two.status = 500
            await until(lambda: service.states == {one.address: "active", two.address: "unhealthy"})
            await until(lambda: service.endpoints[two.address] == "UNHEALTHY")
            two.status = 200
            await until(lambda: service.states == {one.address: "active", two.address: "active"})
            await until(lambda: service.endpoints[two.address] == "HEALTHY")


async def test_a_worker_added_to_the_file_joins_and_a_removed_one_drains_first(service: Service) -> None:
    async with serving(FakeWorker()) as one, serving(FakeWorker()) as two:
        service.configure(one)
        async with service.observed():
            service.configure(one, two)
            await until(lambda: service.states == {one.address: "active", two.address: "active"})
            column = service.table.column(0)
            column.add(service.slots[two.address], requests=1)
            service.configure(one)
            await until(lambda: service.states == {one.address: "active", two.address: "draining"})
            await until(lambda: service.endpoints == {one.address: "HEALTHY", two.address: "DRAINING"})
            status, page = await service.get("/workers")
            assert (status, [(row["id"], row["state"], row["in_flight"]) for row in page["workers"]]) == (
                200,
                [("w0", "active", 0), ("w1", "draining", 1)],
            )
            column.add(service.slots[two.address], requests=-1)
            await until(lambda: service.states == {one.address: "active"})
            await until(lambda: service.endpoints == {one.address: "HEALTHY"})


async def test_replacing_the_whole_fleet_leaves_no_moment_without_a_worker(service: Service) -> None:
    async with serving(FakeWorker()) as one, serving(FakeWorker()) as two:
        service.configure(one)
        async with service.observed():
            service.configure(two)
            seen = []

            def replaced() -> bool:
                service.view.refresh()
                seen.append(len(service.view.candidates(None)))
                return service.states == {two.address: "active"}

            await until(replaced)
            assert min(seen) >= 1


async def test_models_of_the_file_reach_the_routers_with_and_without_a_change_of_workers(service: Service) -> None:
    async with serving(FakeWorker()) as one, serving(FakeWorker()) as two:
        service.configure(one, models=("m",))
        async with service.observed():
            assert service.models == ["m"]
            service.configure(one, models=("m", "n"))
            await until(lambda: service.models == ["m", "n"])
            service.configure(one, two, models=("n",))
            await until(lambda: service.models == ["n"])
            await until(lambda: service.states == {one.address: "active", two.address: "active"})
            service.configure(one, two)
            await until(lambda: service.models == [])


async def test_workers_found_elsewhere_join_the_listed_ones_and_stay_over_a_restart(service: Service) -> None:
    async with serving(FakeWorker()) as one, serving(FakeWorker()) as two:
        service.configure(one)
        found = service.directory / "found.json"
        found.write_text(json.dumps({"workers": [{"address": two.address, "id": "found"}, {"address": one.address}]}))
        discovery = DiscoverySettings(file=str(found), first_report_timeout_secs=0.05)
        service.settings = replace(service.settings, discovery=discovery)
        async with service.observed():
            await until(lambda: service.states == {one.address: "active", two.address: "active"})
            service.view.refresh()
            assert [worker.id for worker in service.view.workers()] == ["found", "w0"]
        found.write_text("{")
        async with service.observed():
            service.configure(one, models=("m",))
            await until(lambda: service.models == ["m"])
            assert service.states == {one.address: "active", two.address: "active"}
            found.write_text('{"workers": []}')
            await until(lambda: service.states == {one.address: "active"})


async def test_a_bad_file_changes_nothing(service: Service) -> None:
    async with serving(FakeWorker()) as one:
        service.configure(one, models=("m",))
        async with service.observed():
            before = FleetDocument(service.segment).generation
            for content in ("workers: [", "workers: [{address: nonsense}]", "workerz: []", "workers: []\nmodels: [{}]"):
                service.configure(content=content)
                await asyncio.sleep(0.2)
            assert service.states == {one.address: "active"}
            assert service.models == ["m"]
            assert FleetDocument(service.segment).generation == before


async def test_a_successor_goes_on_with_slots_health_and_drains(service: Service) -> None:
    async with serving(FakeWorker()) as one, serving(FakeWorker()) as two, serving(FakeWorker()) as three:
        service.configure(one, two, three)
        three.status = 500
        async with service.observed():
            await until(lambda: service.states[three.address] == "unhealthy")
            service.table.column(0).add(service.slots[one.address], requests=1)
            service.configure(two, three)
            await until(lambda: service.states[one.address] == "draining")
            slots = service.slots
        generation = FleetDocument(service.segment).generation
        async with service.observed():
            assert FleetDocument(service.segment).generation == generation
            assert service.slots.items() >= slots.items()
            assert service.states[three.address] == "unhealthy"
            service.table.column(0).add(service.slots[one.address], requests=-1)
            await until(lambda: one.address not in service.states)


async def test_a_successor_with_an_unusable_file_keeps_the_published_fleet(service: Service) -> None:
    async with serving(FakeWorker()) as one:
        service.configure(one, models=("m",))
        async with service.observed():
            process_settings = service.settings
        process = ObserverProcess(
            settings=process_settings,
            segment=service.segment,
            config_file=service.directory / "missing.yaml",
            metric_dir=service.directory,
        )
        stop, ready = asyncio.Event(), asyncio.Event()
        task = spawn(process.run(stop=stop, ready=ready.set), name="observer")
        await until(lambda: len(one.paths) >= 5)
        assert service.states == {one.address: "active"}
        assert service.models == ["m"]
        stop.set()
        await task


async def test_an_endpoint_file_that_cannot_be_written_is_written_later(service: Service) -> None:
    async with serving(FakeWorker()) as one:
        service.configure(one)
        obstacle = service.directory / "eds.json"
        obstacle.mkdir()
        async with service.observed():
            assert service.states == {one.address: "active"}
            obstacle.rmdir()
            await until(obstacle.exists)
            assert service.endpoints == {one.address: "HEALTHY"}


async def test_is_ready_when_a_router_is(service: Service) -> None:
    service.configure()
    async with service.observed():
        status, page = await service.get("/readiness")
        assert (status, page["reasons"]) == (503, ["no router is ready"])
        row = ProcessTable(service.segment).claim(role=Role.ROUTER, index=0, now_ns=0)
        assert row is not None
        row.state = ProcessState.READY
        assert (await service.get("/readiness"))[0] == 200


async def test_an_admin_port_in_use_is_a_failure_to_start(service: Service) -> None:
    service.configure()
    process = ObserverProcess(
        settings=service.settings,
        segment=service.segment,
        config_file=service.config_file,
        metric_dir=service.directory,
    )
    with socket.create_server(("127.0.0.1", int(service.admin.rpartition(":")[2]))), pytest.raises(StartupError):
        await process.run(stop=asyncio.Event(), ready=lambda: pytest.fail("it is not ready"))


def test_the_lists_of_a_fleet_have_the_workers_that_leave_last() -> None:
    leaving = Worker(id="a", address="10.0.0.1:80", slot=0, state="draining")
    staying = Worker(id="b", address="10.0.0.1:80", slot=1, models=("m",), healthy=False)
    models = (ModelSpec(name="m"),)
    assert lists_of(Fleet(workers=(leaving, staying), models=models)) == Lists(
        workers=(
            WorkerSpec(address="10.0.0.1:80", id="b", models=("m",)),
            WorkerSpec(address="10.0.0.1:80", id="a", draining=True),
        ),
        models=models,
    )


def test_a_document_that_is_no_fleet_is_not_restored() -> None:
    segment = segment_with_index()
    document = FleetDocument(segment)
    assert read_fleet(document) is None
    document.publish(b"[]")
    assert read_fleet(document) is None
    fleet = Fleet(workers=(), models=(ModelSpec(name="m", aliases=("n",)),))
    document.publish(msgspec.json.encode(fleet))
    assert read_fleet(document) == fleet
    segment.close()


def test_the_ranks_of_a_server_are_one_entry_of_its_list() -> None:
    listed = (
        WorkerSpec(
            address="10.0.0.1:80",
            id="a",
            models=("m",),
            data_parallel_size=3,
            kv_events_endpoint="tcp://{host}:1",
            kv_events_topic="t",
        ),
        WorkerSpec(address="10.0.0.2:80", id="b"),
    )
    registry = FleetRegistry(settings=FleetSettings())
    registry.adopt(listed, now=0.0, in_flight=[0] * 8)
    leaving = Worker(id="a/1", address="10.0.0.1:80", slot=7, state="draining", rank=1, ranks=2)
    assert lists_of(Fleet(workers=(leaving, *registry.workers()))).workers == (
        *listed,
        WorkerSpec(address="10.0.0.1:80", id="a", draining=True, data_parallel_size=2),
    )
