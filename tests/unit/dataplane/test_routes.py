from typing import Any

from extproc.config.dataplane import EnvoySettings
from extproc.config.policies import RoutingSettings
from extproc.config.server import ServerSettings
from extproc.config.settings import Settings
from extproc.dataplane.routes import route_configuration, worker_retries

SINGLE = RoutingSettings(destination="single")


def host(settings: Settings) -> dict[str, Any]:
    document: dict[str, Any] = route_configuration(settings).to_dict()["virtualHosts"][0]
    return document


def test_bodies_are_kept_up_to_the_services_own_limit() -> None:
    assert host(Settings(server=ServerSettings(max_body_bytes=12345)))["requestBodyBufferLimit"] == 12345


def test_an_answer_has_no_total_time_out() -> None:
    (route,) = host(Settings(envoy=EnvoySettings(stream_idle_timeout_secs=60)))["routes"]
    assert route["route"]["timeout"] == "0s"
    assert route["route"]["idleTimeout"] == "60s"


def test_every_attempt_goes_to_a_worker_not_tried() -> None:
    policy = host(Settings(envoy=EnvoySettings(retries=2)))["routes"][0]["route"]["retryPolicy"]
    assert policy["numRetries"] == 2
    assert policy["retriableStatusCodes"] == [502, 503]
    assert [one["name"] for one in policy["retryHostPredicate"]] == ["envoy.retry_host_predicates.previous_hosts"]


def test_no_retries_means_no_policy() -> None:
    assert worker_retries(EnvoySettings(retries=0)) is None


def test_an_attempt_has_a_time_limit_only_when_one_is_set() -> None:
    for hung_after, expected in ((0, None), (2.5, "2.500s")):
        policy = worker_retries(EnvoySettings(hung_after_secs=hung_after))
        assert policy is not None
        assert policy.to_dict().get("perTryTimeout") == expected


def test_a_single_destination_is_not_retried_but_its_fall_back_is() -> None:
    named, fallback = host(Settings(routing=SINGLE))["routes"]
    assert named["match"]["headers"] == [{"name": "x-gateway-destination-endpoint", "presentMatch": True}]
    assert named["route"]["cluster"] == "workers"
    assert "retryPolicy" not in named["route"]
    assert fallback["route"]["cluster"] == "workers_fallback"
    assert "retryPolicy" in fallback["route"]


def test_a_single_destination_that_fails_closed_has_one_route() -> None:
    (route,) = host(Settings(routing=SINGLE, envoy=EnvoySettings(fail_open=False)))["routes"]
    assert route["route"]["cluster"] == "workers"
