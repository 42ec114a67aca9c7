"""The running service follows its sources: what it finds is on the admin page, and nothing that breaks empties it."""

import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from extproc.config.plugins import PluginGroup
from tests.support.discovery_stages import write
from tests.support.dns_server import DnsServer, dns_serving
from tests.support.plugins import WATCHES_A_FILE, install
from tests.support.service import Service
from tests.support.waiting import until
from tests.support.workers_http import FakeWorker, serving

SERVICE = "_http._tcp.vllm.test."
NEVER = 600


class Case:
    """A service with three workers about, none of which is listed, and a DNS server."""

    def __init__(self, directory: Path, server: DnsServer, workers: list[FakeWorker]) -> None:
        self.directory = directory
        self.server = server
        self.addresses = [worker.address for worker in workers]
        self.endpoints = directory / "endpoints.json"

    def service(self, *, discovery: dict[str, Any], **config: Any) -> Service:  # noqa: ANN401 - a part of the file
        return Service(
            directory=self.directory,
            config={
                "fleet": {"reload_interval_secs": 0.05, "health_interval_secs": 0.1, "drain_timeout_secs": 0},
                "supervisor": {"routers": 1},
                "discovery": {
                    "dns_server": self.server.address,
                    "dns_min_ttl_secs": 0.05,
                    "retry_secs": 0.05,
                    "retry_max_secs": 0.1,
                    **discovery,
                },
                **config,
            },
        )

    def serve_by_dns(self, *addresses: str) -> None:
        """Let the DNS server have these workers, all on loopback."""
        self.server.ttl = 0
        self.server.negative_ttl = 0
        self.server.records = {("host.test.", "A"): ["127.0.0.1"]}
        if addresses:
            ports = [address.rpartition(":")[2] for address in addresses]
            self.server.records[SERVICE, "SRV"] = [f"0 0 {port} host.test." for port in ports]

    def serve_by_file(self, *addresses: str) -> None:
        """Let the endpoints file have these workers."""
        write(self.endpoints, json.dumps({"workers": [{"address": address} for address in addresses]}))


async def has(service: Service, *addresses: str) -> None:
    """Wait until these workers are known, and all of them are healthy."""

    async def holds() -> bool:
        rows = await service.workers()
        return {row["address"] for row in rows if row["healthy"]} == set(addresses) and len(rows) == len(addresses)

    await until(holds)


@pytest.fixture
async def case(tmp_path: Path) -> AsyncIterator[Case]:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(dns_serving(DnsServer()))
        workers = [await stack.enter_async_context(serving(FakeWorker())) for _ in range(3)]
        yield Case(tmp_path, server, workers)


async def test_a_service_without_listed_workers_starts_and_follows_dns_and_an_endpoints_file(case: Case) -> None:
    one, two, three = case.addresses
    case.serve_by_dns(one)
    case.serve_by_file(two)
    async with case.service(discovery={"dns_names": [f"srv:{SERVICE}"], "file": str(case.endpoints)}) as service:
        await has(service, one, two)
        case.serve_by_dns(one, three)
        await has(service, one, two, three)
        case.serve_by_file()
        await has(service, one, three)
        case.serve_by_dns()
        await has(service)
        case.serve_by_file(one)
        await has(service, one)
        assert await service.metric("extproc_discovery_faults_total") == 0


async def test_addresses_of_a_host_are_workers_and_serve_the_configured_models(case: Case) -> None:
    (one, *_) = case.addresses
    case.server.records = {("vllm.test.", "A"): ["127.0.0.1"]}
    names = [f"vllm.test:{one.rpartition(':')[2]}"]
    async with case.service(discovery={"dns_names": names, "dns_models": ["m"]}) as service:
        await has(service, one)
        assert [row["models"] for row in await service.workers()] == [["m"]]


async def test_failing_sources_keep_their_workers_even_over_a_new_observer(case: Case) -> None:
    one, two, three = case.addresses
    case.serve_by_dns(one)
    case.serve_by_file(two)
    discovery = {"dns_names": [f"srv:{SERVICE}"], "file": str(case.endpoints), "first_report_timeout_secs": 0.2}
    async with case.service(discovery=discovery) as service:
        await has(service, one, two)
        case.server.failing = {"A", "AAAA", "SRV"}
        write(case.endpoints, "{")
        (before,) = await service.pids("observer")
        os.kill(before, signal.SIGKILL)

        async def late() -> bool:
            pids = await service.pids("observer")
            faults = "extproc_discovery_faults_total"
            name = f"dns:srv:{SERVICE}"
            told = [await service.metric(faults, source=source, reason="late") for source in (name, "file")]
            return before not in pids and all(told)

        await until(late)
        await has(service, one, two)
        case.server.failing = set()
        case.serve_by_dns(three)
        case.serve_by_file()
        await has(service, three)


async def test_listed_workers_are_used_at_once_whatever_the_other_sources_do(case: Case) -> None:
    one, two, _ = case.addresses
    case.server.silent = {"A", "AAAA", "SRV"}
    discovery = {"dns_names": ["vllm.test:80"], "first_report_timeout_secs": NEVER}
    async with case.service(discovery=discovery, workers=[{"address": one}]) as service:
        await has(service, one)
        assert await service.metric("extproc_discovery_reports_total", source="dns:vllm.test:80") == 0
        case.server.silent = set()
        case.server.records = {("vllm.test.", "A"): ["127.0.0.1"]}
        service.config["workers"].append({"address": two})
        service.write_config()
        await until(lambda: known(service, two))


async def known(service: Service, address: str) -> bool:
    return address in {row["address"] for row in await service.workers()}


async def test_an_installed_plugin_finds_workers_and_its_failures_end_nothing(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = case.addresses
    points = {PluginGroup.DISCOVERY: {"watch-file": "integration_test_plugin:Source"}}
    modules = {"integration_test_plugin": WATCHES_A_FILE}
    site = install(tmp_path / "site", package="p", entry_points=points, modules=modules)
    monkeypatch.setenv("PYTHONPATH", f"{site}:{os.environ.get('PYTHONPATH', '')}")
    lines = tmp_path / "lines"
    write(lines, two)
    plugins = [{"name": "watch-file", "options": json.dumps({"file": str(lines)})}]
    async with case.service(
        discovery={"plugins": ["watch-file"]}, workers=[{"address": one}], plugins=plugins
    ) as service:
        await has(service, one, two)
        before = await service.pids("observer")
        write(lines, "fail")

        async def failed() -> bool:
            source = "plugin:watch-file"
            return await service.metric("extproc_discovery_faults_total", source=source, reason="failed") >= 2

        await until(failed)
        await has(service, one, two)
        write(lines, three)
        await has(service, one, three)
        assert await service.pids("observer") == before
