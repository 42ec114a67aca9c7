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


@pytest.mark.parametrize(
    ("envoy", "headers", "trailers"),
    [
        (EnvoySettings(), "SEND", "SEND"),
        (EnvoySettings(fail_open=False), "SEND", "SKIP"),
        (EnvoySettings(response_headers=False), "SKIP", "SKIP"),
    ],
)
def test_the_response_phase_is_held_to_the_answers_end_unless_a_dead_router_would_break_it(
    envoy: EnvoySettings, headers: str, trailers: str
) -> None:
    mode = ext_proc(Settings(envoy=envoy))["processingMode"]
    assert (mode["responseHeaderMode"], mode["responseTrailerMode"]) == (headers, trailers)
    assert mode.get("responseBodyMode", "NONE") == "NONE"


def test_a_router_may_set_one_of_the_headers_that_steer_envoy() -> None:
    rules = ext_proc(Settings())["mutationRules"]
    assert rules == {"allowExpression": {"regex": "x-envoy-upstream-rq-per-try-timeout-ms"}}


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
        "receivingNamespaces": {"untyped": ["envoy.lb", "extproc"]},
    }


def test_only_what_decisions_look_at_is_shown_to_the_routers() -> None:
    envoy = EnvoySettings(forwarded_headers=("content-length", "x-extproc-*"), response_headers=False)
    assert ext_proc(Settings(envoy=envoy))["forwardRules"]["allowedHeaders"]["patterns"] == [
        {"exact": ":method"},
        {"exact": ":path"},
        {"exact": "content-length"},
        {"prefix": "x-extproc-"},
    ]


def test_what_answers_are_known_by_is_shown_whatever_else_is() -> None:
    config = ext_proc(Settings(envoy=EnvoySettings(forwarded_headers=())))
    assert config["forwardRules"]["allowedHeaders"]["patterns"] == [
        {"exact": name} for name in (":method", ":path", ":status", "content-type", "content-encoding")
    ]
