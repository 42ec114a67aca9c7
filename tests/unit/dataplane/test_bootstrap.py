import pytest
import yaml

from extproc.config.dataplane import EnvoySettings
from extproc.config.server import ServerSettings
from extproc.config.settings import Settings
from extproc.config.supervisor import SupervisorSettings
from extproc.dataplane.bootstrap import bootstrap_yaml, build_bootstrap
from extproc.errors import ConfigurationError
from tests.support.bootstraps import STANDALONE, STANDALONE_SETTINGS


def plain(value: object) -> object:
    """The document with every number as a float and every duration in seconds, however it was written."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    if isinstance(value, bool):
        return value
    try:
        return float(str(value).removesuffix("s"))
    except ValueError:
        return value


def test_the_commented_file_says_what_is_generated() -> None:
    generated = yaml.safe_load(bootstrap_yaml(STANDALONE_SETTINGS))
    assert plain(yaml.safe_load(STANDALONE.read_text())) == plain(generated)


def test_every_field_is_written_as_envoy_declares_it() -> None:
    text = bootstrap_yaml(STANDALONE_SETTINGS)
    assert "enforcing_consecutive_5xx: 0" in text
    assert "5_xx" not in text


def test_the_same_settings_give_the_same_block_yaml() -> None:
    text = bootstrap_yaml(Settings())
    assert text == bootstrap_yaml(Settings())
    assert "{" not in text.replace("{}", "")


def test_addresses_and_paths_come_from_the_settings() -> None:
    settings = Settings(
        server=ServerSettings(router_address="0.0.0.0:7000"),
        supervisor=SupervisorSettings(routers=2, run_dir="/run/x"),
        envoy=EnvoySettings(listen_address="0.0.0.0:80", admin_address="[::1]:81", eds_file="{run_dir}/workers.json"),
    )
    bootstrap = build_bootstrap(settings).to_dict()
    resources = bootstrap["staticResources"]
    routers, workers = resources["clusters"]
    assert [cluster["name"] for cluster in resources["clusters"]] == ["extproc", "workers"]
    assert bootstrap["admin"]["address"]["socketAddress"] == {"address": "::1", "portValue": 81}
    assert resources["listeners"][0]["address"]["socketAddress"] == {"address": "0.0.0.0", "portValue": 80}
    assert [
        endpoint["endpoint"]["address"]["socketAddress"]
        for endpoint in routers["loadAssignment"]["endpoints"][0]["lbEndpoints"]
    ] == [{"address": "127.0.0.1", "portValue": 7000}, {"address": "127.0.0.1", "portValue": 7001}]
    assert workers["edsClusterConfig"]["edsConfig"]["pathConfigSource"]["path"] == "/run/x/workers.json"


def test_a_router_for_every_core_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2})
    routers = build_bootstrap(Settings()).to_dict()["staticResources"]["clusters"][0]
    assert len(routers["loadAssignment"]["endpoints"][0]["lbEndpoints"]) == 3


def test_an_address_envoy_cannot_use_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match=r"^envoy\.listen_address: 'example.com:80'"):
        build_bootstrap(Settings(envoy=EnvoySettings(listen_address="example.com:80")))
    with pytest.raises(ConfigurationError, match=r"^envoy\.admin_address: 'example.com:80'"):
        build_bootstrap(Settings(envoy=EnvoySettings(admin_address="example.com:80")))
