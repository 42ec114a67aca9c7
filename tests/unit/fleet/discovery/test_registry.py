from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from extproc.config.discovery import DiscoverySettings
from extproc.config.plugins import PluginGroup, PluginSpec
from extproc.fleet.discovery.base import NamedSource
from extproc.fleet.discovery.registry import build_sources
from extproc.telemetry.metrics import DiscoveryMetrics, Metrics
from tests.support.discovery import counted, watching
from tests.support.dns_server import DnsServer, dns_serving
from tests.support.plugins import WATCHES_A_FILE, install
from tests.support.workers_http import until


@pytest.fixture
async def server() -> AsyncIterator[DnsServer]:
    async with dns_serving(DnsServer()) as made:
        yield made


def sources(
    directory: Path,
    discovery: DiscoverySettings,
    *,
    plugins: tuple[PluginSpec, ...] = (),
    metrics: DiscoveryMetrics | None = None,
) -> dict[str, NamedSource]:
    built = build_sources(
        discovery=discovery,
        plugins=plugins,
        config_file=directory / "extproc.yaml",
        reload_interval_secs=0.02,
        workers_required=False,
        metrics=Metrics(),
        discovery_metrics=metrics or DiscoveryMetrics(),
    )
    return {source.name: source for source in built}


def test_without_settings_there_is_the_configurations_own_list(tmp_path: Path) -> None:
    assert list(sources(tmp_path, DiscoverySettings())) == ["static"]


def test_sources_come_in_the_documented_order(tmp_path: Path) -> None:
    discovery = DiscoverySettings(
        plugins=("b", "a"), dns_names=("z:80", "srv:y", "x:80"), file=str(tmp_path / "endpoints")
    )
    assert list(sources(tmp_path, discovery)) == [
        "static", "file", "dns:z:80", "dns:srv:y", "dns:x:80", "plugin:b", "plugin:a",
    ]  # fmt: skip


async def test_each_source_is_what_its_settings_say(
    tmp_path: Path, server: DnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = {PluginGroup.DISCOVERY: {"watch-file": "registry_test_plugin:Source"}}
    modules = {"registry_test_plugin": WATCHES_A_FILE}
    monkeypatch.syspath_prepend(install(tmp_path / "site", package="p", entry_points=points, modules=modules))
    (tmp_path / "extproc.yaml").write_text("models: [{name: m}]")
    (tmp_path / "endpoints.json").write_text('{"workers": [{"address": "10.0.0.1:80"}]}')
    (tmp_path / "lines").write_text("10.0.0.3:80")
    server.records = {("w.test.", "A"): ["10.0.0.2"]}
    discovery = DiscoverySettings(
        file=str(tmp_path / "endpoints.json"),
        dns_names=("w.test:80",),
        dns_models=("m",),
        dns_server=server.address,
        plugins=("watch-file",),
    )
    plugins = (PluginSpec("other", "{}"), PluginSpec("watch-file", f'{{"file": "{tmp_path}/lines"}}'))
    built = sources(tmp_path, discovery, plugins=plugins)
    found = {}
    for name, (_, source) in built.items():
        async with watching(source) as reports:
            await until(lambda reports=reports: reports.lists)  # type: ignore[misc]
            (found[name],) = reports.addresses
            if name.startswith("dns"):
                assert reports.lists[0].workers[0].models == ("m",)
    assert found == {
        "static": [],
        "file": ["10.0.0.1:80"],
        "dns:w.test:80": ["10.0.0.2:80"],
        "plugin:watch-file": ["10.0.0.3:80"],
    }


async def test_a_failing_source_is_counted_under_its_name_and_retried(tmp_path: Path) -> None:
    metrics = DiscoveryMetrics()
    discovery = DiscoverySettings(plugins=("gone",), retry_secs=0.05, retry_max_secs=0.05)
    built = sources(tmp_path, discovery, metrics=metrics)
    async with watching(built["plugin:gone"].source) as reports:
        await until(lambda: counted(metrics.faults, source="plugin:gone", reason="unusable") >= 2)
        assert reports.lists == []
