"""Every kind of source on a stage of its own: the real thing that it reads, which a test changes, breaks and mends."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import pytest

from extproc.config.address import TcpAddress
from extproc.config.dns_name import parse_dns_name
from extproc.config.load import Lists
from extproc.config.plugins import PluginGroup
from extproc.fleet.discovery.base import NamedSource, Source
from extproc.fleet.discovery.dns import DnsSource
from extproc.fleet.discovery.dns_answers import TtlBounds
from extproc.fleet.discovery.dns_lookup import DnsLookup, server_resolver
from extproc.fleet.discovery.endpoints_file import endpoints_source
from extproc.fleet.discovery.merged import MergedSource
from extproc.fleet.discovery.plugin import PluginSource
from extproc.fleet.discovery.restarting import RestartingSource
from extproc.fleet.discovery.retry import Retry
from extproc.fleet.discovery.static import static_source
from extproc.telemetry.metrics import DiscoveryMetrics, Metrics
from tests.support.discovery import counted
from tests.support.dns_server import DnsServer, dns_serving
from tests.support.plugins import WATCHES_A_FILE, install

INTERVAL_SECS = 0.02
RETRY = Retry(0.02, 0.05)
PORT = 8000


class Stage(Protocol):
    """What a source reads. All workers have the port ``PORT``."""

    source: Source

    def offer(self, *addresses: str) -> None:
        """Make these the workers; mends what was broken."""

    def break_it(self) -> None:
        """Let nothing be read any more."""

    def faults(self) -> float:
        """How often the source found that nothing can be read."""


def write(path: Path, text: str) -> None:
    """Replace a file atomically."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text)
    temporary.replace(path)


class StaticStage:
    """The configuration file."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "extproc.yaml"
        self._metrics = Metrics()
        self.source: Source = static_source(
            path=self._path, interval_secs=INTERVAL_SECS, workers_required=True, metrics=self._metrics
        )

    def offer(self, *addresses: str) -> None:
        write(self._path, json.dumps({"workers": [{"address": address} for address in addresses]}))

    def break_it(self) -> None:
        write(self._path, "workers: [")

    def faults(self) -> float:
        return counted(self._metrics.reloads, result="invalid")


class EndpointsStage:
    """An endpoints file in JSON."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "endpoints.json"
        self._metrics = DiscoveryMetrics()
        self.source: Source = endpoints_source(
            name="file", path=self._path, interval_secs=INTERVAL_SECS, metrics=self._metrics
        )

    def offer(self, *addresses: str) -> None:
        write(self._path, json.dumps({"workers": [{"address": address} for address in addresses]}))

    def break_it(self) -> None:
        self._path.unlink(missing_ok=True)

    def faults(self) -> float:
        return counted(self._metrics.faults, source="file", reason="invalid")


class DnsStage:
    """A DNS server with address records, or with service records and a host for each address."""

    def __init__(self, server: DnsServer, text: str) -> None:
        self._server = server
        self._service = text.startswith("srv:")
        self._metrics = DiscoveryMetrics()
        lookup = DnsLookup(resolver=lambda: server_resolver(TcpAddress("127.0.0.1", server.port)), timeout_secs=5.0)
        self.source: Source = DnsSource(
            label="dns",
            name=parse_dns_name(text),
            models=(),
            lookup=lookup,
            ttl=TtlBounds(INTERVAL_SECS, INTERVAL_SECS),
            retry=RETRY,
            metrics=self._metrics,
        )

    def offer(self, *addresses: str) -> None:
        self._server.failing.clear()
        hosts = [address.rpartition(":")[0] for address in addresses]
        self._server.records = {("w.test.", "A"): hosts} if hosts else {}
        if self._service and hosts:
            names = {f"h{host.replace('.', '-')}.test.": host for host in hosts}
            self._server.records = {(name, "A"): [host] for name, host in names.items()}
            self._server.records["_http._tcp.w.test.", "SRV"] = [f"0 0 {PORT} {name}" for name in names]

    def break_it(self) -> None:
        self._server.failing |= {"A", "AAAA", "SRV"}

    def faults(self) -> float:
        return counted(self._metrics.dns_lookups, source="dns", result="failed")


class PluginStage:
    """An installed plugin that watches a file."""

    def __init__(self, directory: Path, put_on_path: Callable[[Path], None]) -> None:
        points = {PluginGroup.DISCOVERY: {"watch-file": "watches_a_file:Source"}}
        modules = {"watches_a_file": WATCHES_A_FILE}
        put_on_path(install(directory / "site", package="watches", entry_points=points, modules=modules))
        self._path = directory / "lines"
        self._metrics = DiscoveryMetrics()

        def make() -> Source:
            options = {"file": str(self._path)}
            return PluginSource(name="plugin", plugin="watch-file", options=options, metrics=self._metrics)

        self.source: Source = RestartingSource(name="plugin", make=make, retry=RETRY, metrics=self._metrics)

    def offer(self, *addresses: str) -> None:
        write(self._path, "\n".join(addresses))

    def break_it(self) -> None:
        write(self._path, "fail")

    def faults(self) -> float:
        return counted(self._metrics.faults, source="plugin", reason="failed")


class MergedStage:
    """Two sources made one: the configuration with the first worker, an endpoints file with the others."""

    def __init__(self, directory: Path) -> None:
        self._static, self._endpoints = StaticStage(directory), EndpointsStage(directory)
        self.source: Source = MergedSource(
            sources=[NamedSource("static", self._static.source), NamedSource("file", self._endpoints.source)],
            known=Lists(),
            first_report_timeout_secs=600,
            metrics=DiscoveryMetrics(),
        )

    def offer(self, *addresses: str) -> None:
        self._static.offer(*addresses[:1])
        self._endpoints.offer(*addresses[1:])

    def break_it(self) -> None:
        self._static.break_it()
        self._endpoints.break_it()

    def faults(self) -> float:
        return min(self._static.faults(), self._endpoints.faults())


KINDS = ("static", "file", "dns_addresses", "dns_services", "plugin", "merged")


@asynccontextmanager
async def staged(kind: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    """Set the stage for a source of one of ``KINDS``."""
    if kind.startswith("dns"):
        async with dns_serving(DnsServer()) as server:
            yield DnsStage(server, f"w.test:{PORT}" if kind == "dns_addresses" else "srv:_http._tcp.w.test")
        return
    stages: dict[str, Callable[[], Stage]] = {
        "static": lambda: StaticStage(directory),
        "file": lambda: EndpointsStage(directory),
        "plugin": lambda: PluginStage(directory, monkeypatch.syspath_prepend),
        "merged": lambda: MergedStage(directory),
    }
    yield stages[kind]()
