from typing import Any

from extproc.config.dataplane import EnvoySettings
from extproc.config.settings import Settings
from extproc.dataplane.listener import client_listener


def manager(settings: Settings) -> dict[str, Any]:
    filters = client_listener(settings).to_dict()["filterChains"][0]["filters"]
    config: dict[str, Any] = filters[0]["typedConfig"]
    return config


def test_the_clients_own_destination_is_removed_before_anything_else() -> None:
    early = manager(Settings())["earlyHeaderMutationExtensions"]
    assert [one["typedConfig"]["mutations"] for one in early] == [[{"remove": "x-gateway-destination-endpoint"}]]


def test_a_silent_answer_lives_as_long_as_the_setting_says() -> None:
    config = manager(Settings(envoy=EnvoySettings(stream_idle_timeout_secs=7200)))
    assert config["streamIdleTimeout"] == "7200s"


def test_no_client_is_internal() -> None:
    config = manager(Settings())
    assert config["useRemoteAddress"]
    assert config["internalAddressConfig"]["cidrRanges"] == [{"addressPrefix": "255.255.255.255", "prefixLen": 32}]
