from collections.abc import Collection
from pathlib import Path

import pytest

from extproc.config.discovery import DiscoverySettings
from extproc.config.discovery_check import MAX_DNS_NAMES, find_discovery_faults, find_discovery_warnings
from extproc.config.plugins import PluginGroup


def installed(group: str) -> Collection[str]:
    return ("consul", "nomad") if group == PluginGroup.DISCOVERY else ("other",)


def faults_of(**values: object) -> list[str]:
    settings = DiscoverySettings(**values)  # type: ignore[arg-type]
    return [str(fault) for fault in find_discovery_faults(settings, plugin_names=installed)]


def test_the_defaults_are_good_and_no_package_is_asked_for_plugins() -> None:
    def nobody(group: str) -> Collection[str]:
        raise AssertionError(group)

    assert find_discovery_faults(DiscoverySettings(), plugin_names=nobody) == []
    assert find_discovery_warnings(DiscoverySettings()) == []


def test_good_settings_are_good(tmp_path: Path) -> None:
    file = tmp_path / "endpoints.json"
    file.write_text("not looked into")
    assert (
        faults_of(
            file=str(file),
            dns_names=("vllm:8000", "srv:_http._tcp.vllm"),
            dns_server="[::1]:53",
            dns_models=("m",),
            dns_min_ttl_secs=5.0,
            dns_max_ttl_secs=5.0,
            plugins=("nomad", "consul"),
        )
        == []
    )


@pytest.mark.parametrize(
    ("values", "faults"),
    [
        ({"file": "/missing"}, ["discovery.file: '/missing' is not a file that can be read"]),
        (
            {"dns_names": ("vllm:8000", "vllm", "10.0.0.1:80", "vllm:8000")},
            [
                "discovery.dns_names[3]: is also entry 0",
                "discovery.dns_names[1]: must be `HOST:PORT` with the name of a host, or `srv:NAME`; is 'vllm'",
                "discovery.dns_names[2]: is an address, not a name: it belongs in `workers`; is '10.0.0.1:80'",
            ],
        ),
        (
            {"dns_names": tuple(f"n{n}:80" for n in range(MAX_DNS_NAMES + 1))},
            ["discovery.dns_names: must have at most 64 entries, not 65"],
        ),
        (
            {"dns_models": ("m", "", "m")},
            [
                "discovery.dns_models[1]: must be 1 to 256 characters long",
                "discovery.dns_models: names a model twice",
            ],
        ),
        (
            {"dns_min_ttl_secs": 10.0, "dns_max_ttl_secs": 9.0, "retry_secs": 2.0, "retry_max_secs": 1.0},
            [
                "discovery.dns_max_ttl_secs: must not be less than `discovery.dns_min_ttl_secs`",
                "discovery.retry_max_secs: must not be less than `discovery.retry_secs`",
            ],
        ),
        (
            {"plugins": ("consl", "nomad", "nomad", "other")},
            [
                "discovery.plugins[2]: is also entry 1",
                "discovery.plugins[0]: unknown plugin 'consl', known are `consul`, `nomad` - did you mean `consul`?",
                "discovery.plugins[3]: unknown plugin 'other', known are `consul`, `nomad`",
            ],
        ),
        (
            {"plugins": tuple(f"p{n}" for n in range(65))},
            ["discovery.plugins: must have at most 64 entries, not 65"],
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_every_fault_has_its_path(values: dict[str, object], faults: list[str]) -> None:
    assert faults_of(**values) == faults


@pytest.mark.parametrize("text", ["10.0.0.1", "10.0.0.1:0", "dns:53", "unix:/run/dns", "::1:53", "10.0.0.1:dns"])
def test_a_server_is_an_address_with_a_port(text: str) -> None:
    assert faults_of(dns_server=text) == [
        f"discovery.dns_server: must be `IP:PORT`, such as `10.0.0.2:53`; is {text!r}"
    ]


def test_a_verdict_over_two_settings_names_both() -> None:
    (fault,) = find_discovery_faults(DiscoverySettings(retry_secs=40.0), plugin_names=installed)
    assert fault.involves == ("discovery.retry_secs",)


def test_warns_of_what_has_no_effect() -> None:
    settings = DiscoverySettings(dns_models=("m",), dns_server="10.0.0.1:53")
    assert [str(fault) for fault in find_discovery_warnings(settings)] == [
        "discovery.dns_models: is not used while `discovery.dns_names` is empty",
        "discovery.dns_server: is not used while `discovery.dns_names` is empty",
    ]
