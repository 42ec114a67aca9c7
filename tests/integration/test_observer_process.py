"""The observer as the supervisor starts it: a process of its own on real shared memory."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from extproc.config.admin import AdminSettings
from extproc.config.fleet import FleetSettings
from extproc.config.load import load_lists
from extproc.config.models import ModelSpec
from extproc.config.settings import Settings
from extproc.config.supervisor import SupervisorSettings
from extproc.fleet.view import FleetView
from extproc.shm.fleet import FleetDocument
from extproc.shm.processes import ProcessState, ProcessTable, Role
from extproc.shm.worker_table import WorkerTable
from extproc.supervisor.boot import EXIT_CANNOT_START, ChildBoot
from extproc.supervisor.roles import ENTRIES
from tests.support.fleets import segment_with_index
from tests.support.workers_http import FakeWorker, serving, until

START_SECS = 30.0


class Parent:
    """What a supervisor gives an observer."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.metric_dir = directory / "metrics"
        self.metric_dir.mkdir()
        self.config_file = directory / "extproc.yaml"
        self.segment = segment_with_index()
        self.table = ProcessTable(self.segment)
        self.view = FleetView(FleetDocument(self.segment))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.admin = f"127.0.0.1:{free.getsockname()[1]}"

    def configure(self, *workers: FakeWorker, models: tuple[dict[str, object], ...] = ()) -> None:
        temporary = self.config_file.with_suffix(".new")
        document = {"workers": [{"address": worker.address} for worker in workers], "models": models}
        temporary.write_text(json.dumps(document))
        temporary.replace(self.config_file)

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        self.view.refresh()
        return self.view.models

    @property
    def fleet(self) -> dict[str, tuple[int, str, bool]]:
        self.view.refresh()
        return {found.address: (found.slot, found.state, found.healthy) for found in self.view.workers()}

    async def spawn(self) -> asyncio.subprocess.Process:
        """Start an observer in process slot 0 and wait until it is ready or has ended."""
        self.table.release(0)
        row = self.table.claim(role=Role.OBSERVER, index=0, now_ns=0)
        assert row is not None
        settings = Settings(
            supervisor=SupervisorSettings(run_dir=str(self.directory)),
            admin=AdminSettings(address=self.admin),
            fleet=FleetSettings(reload_interval_secs=0.05, health_interval_secs=0.05),
        )
        boot = ChildBoot(
            role=Role.OBSERVER,
            entry=ENTRIES[Role.OBSERVER],
            index=0,
            slot=row.slot,
            segment_fd=self.segment.fd,
            shared_socket_fd=None,
            config_file=self.config_file,
            settings=replace(settings, **load_lists(self.config_file)._asdict()),
        )
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "extproc.supervisor.child"),
            stdin=asyncio.subprocess.PIPE,
            pass_fds=(self.segment.fd,),
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(self.metric_dir)},
        )
        assert child.stdin is not None
        child.stdin.write(boot.to_line())
        await until(lambda: row.state is ProcessState.READY or child.returncode is not None, secs=START_SECS)
        return child

    @asynccontextmanager
    async def observed(self) -> AsyncIterator[asyncio.subprocess.Process]:
        child = await self.spawn()
        try:
            yield child
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()

    async def metrics(self) -> dict[tuple[str, ...], float]:
        """Samples by name and label values."""
        async with aiohttp.ClientSession() as session, session.get(f"http://{self.admin}/metrics") as response:
            text = await response.text()
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@pytest.fixture
async def parent(tmp_path: Path) -> AsyncIterator[Parent]:
    parent = Parent(tmp_path)
    yield parent
    parent.segment.close()


async def test_serves_the_whole_services_metrics_and_ends_cleanly_on_sigterm(parent: Parent) -> None:
    async with serving(FakeWorker()) as one:
        parent.configure(one)
        async with parent.observed() as child:
            await until(lambda: one.paths.count("/health") >= 3)
            WorkerTable(parent.segment).column(5).add(0, requests=4)
            metrics = await parent.metrics()
            assert metrics["extproc_health_probes_total", "ok", one.address] >= 2
            assert metrics["extproc_worker_in_flight", one.address, one.address] == 4
            assert metrics["extproc_process_up", "0", "observer", "0"] == 1
            child.send_signal(signal.SIGTERM)
            assert await child.wait() == 0


async def test_after_sigkill_routing_state_stays_and_the_successor_keeps_every_slot(parent: Parent) -> None:
    async with serving(FakeWorker()) as one, serving(FakeWorker()) as two, serving(FakeWorker()) as three:
        parent.configure(one, two)
        async with parent.observed() as child:
            two.status = 500
            await until(lambda: parent.fleet[two.address][2] is False)
            probes = (await parent.metrics())["extproc_health_probes_total", "ok", one.address]
            child.kill()
            await child.wait()
        before = parent.fleet
        assert before == {one.address: (0, "active", True), two.address: (1, "active", False)}
        parent.configure(three, two, one)
        async with parent.observed():
            assert before.items() <= parent.fleet.items()
            await until(lambda: parent.fleet.get(three.address) == (2, "active", True))
            assert before.items() <= parent.fleet.items()
            assert (await parent.metrics())["extproc_health_probes_total", "ok", one.address] >= probes


async def test_models_edited_in_the_file_reach_the_document_and_outlive_the_observer(parent: Parent) -> None:
    async with serving(FakeWorker()) as one:
        parent.configure(one, models=({"name": "m"},))
        async with parent.observed() as child:
            assert parent.models == (ModelSpec(name="m"),)
            before = parent.view.generation
            parent.configure(one, models=({"name": "m", "block_size": 32}, {"name": "n", "aliases": ["o"]}))
            edited = (ModelSpec(name="m", block_size=32), ModelSpec(name="n", aliases=("o",)))
            await until(lambda: parent.models == edited)
            assert parent.view.generation > before
            known = parent.models
            child.kill()
            await child.wait()
        async with parent.observed():
            assert parent.models is known


async def test_ends_when_its_parent_is_gone(parent: Parent) -> None:
    parent.configure()
    async with parent.observed() as child:
        assert child.stdin is not None
        child.stdin.close()
        async with asyncio.timeout(START_SECS):
            assert await child.wait() == 0


async def test_an_admin_port_in_use_has_the_exit_code_that_says_so(parent: Parent) -> None:
    parent.configure()
    with socket.create_server(("127.0.0.1", int(parent.admin.rpartition(":")[2]))):
        async with parent.observed() as child:
            assert child.returncode == EXIT_CANNOT_START
