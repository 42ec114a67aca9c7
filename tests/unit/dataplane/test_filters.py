from typing import Any

import pytest

from extproc.config.dataplane import EnvoySettings
from extproc.config.policies import RoutingSettings
from extproc.config.settings import Settings
from extproc.dataplane.filters import http_filters


def ext_proc(settings: Settings) -> dict[str, Any]:
    found = http_filters(settings)[0].to_dict()
    assert found["name"] == "envoy.filters.http.ext_proc"
    config: dict[str, Any] = found["typedConfig"]
    return config


def test_the_router_filter_is_last() -> None:
    assert [one.name for one in http_filters(Settings())] == [
        "envoy.filters.http.ext_proc",
        "envoy.filters.http.router",
    ]


@pytest.mark.parametrize(("wanted", "mode"), [(False, "SKIP"), (True, "SEND")])
def test_the_response_phase_is_asked_for_only_when_it_is_used(wanted: bool, mode: str) -> None:
    config = ext_proc(Settings(routing=RoutingSettings(decision_header=wanted)))
    assert config["processingMode"]["responseHeaderMode"] == mode


@pytest.mark.parametrize("fail_open", [True, False])
def test_failing_open_is_the_operators_choice(fail_open: bool) -> None:
    config = ext_proc(Settings(envoy=EnvoySettings(fail_open=fail_open, message_timeout_secs=2.5)))
    assert config.get("failureModeAllow", False) is fail_open
    assert config["messageTimeout"] == "2.500s"


def test_the_decision_changes_the_route_only_when_the_route_depends_on_it() -> None:
    assert ext_proc(Settings())["routeCacheAction"] == "RETAIN"
    assert ext_proc(Settings(routing=RoutingSettings(destination="single")))["routeCacheAction"] == "CLEAR"


def test_the_body_is_buffered_and_the_metadata_pass_both_ways() -> None:
    config = ext_proc(Settings())
    assert config["processingMode"]["requestBodyMode"] == "BUFFERED"
    assert config["allowModeOverride"]
    assert config["metadataOptions"] == {
        "forwardingNamespaces": {"untyped": ["envoy.lb", "envoy.lb.subset_hint"]},
        "receivingNamespaces": {"untyped": ["envoy.lb"]},
    }


def test_only_what_decisions_look_at_is_shown_to_the_routers() -> None:
    config = ext_proc(Settings(envoy=EnvoySettings(forwarded_headers=("content-length", "x-extproc-*"))))
    assert config["forwardRules"]["allowedHeaders"]["patterns"] == [
        {"exact": ":method"},
        {"exact": ":path"},
        {"exact": "content-length"},
        {"prefix": "x-extproc-"},
    ]
