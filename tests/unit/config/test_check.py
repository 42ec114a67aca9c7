from dataclasses import replace
from pathlib import Path

import pytest

from extproc.config.check import check_settings, find_faults, find_warnings
from extproc.config.dataplane import EnvoySettings
from extproc.config.discovery import DiscoverySettings
from extproc.config.fleet import FleetSettings, WorkerSpec
from extproc.config.hooks import HookSettings
from extproc.config.models import ModelSpec
from extproc.config.plugins import PluginGroup, PluginSpec
from extproc.config.policies import ConsistentHashingSettings, RoutingSettings
from extproc.config.recording import RecordingSettings
from extproc.config.server import ServerSettings
from extproc.config.settings import Settings
from extproc.config.supervisor import SupervisorSettings
from extproc.config.tokens import TokensSettings
from extproc.errors import ConfigurationError

POLICIES = ("cache_aware", "random", "round_robin")
MIB = 1 << 20


def faults_of(settings: Settings) -> list[str]:
    return [str(fault) for fault in find_faults(settings, policies=POLICIES)]


def test_the_defaults_are_good_and_raise_no_warning() -> None:
    check_settings(Settings(), policies=POLICIES)
    assert find_warnings(Settings()) == []


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        (
            Settings(server=ServerSettings(max_body_bytes=33 * MIB)),
            "server.max_message_bytes: must be at least 34,668,544: `server.max_body_bytes` and 65,536 for headers",
        ),
        (
            Settings(envoy=EnvoySettings(message_timeout_secs=3.9)),
            (
                "envoy.message_timeout_secs: must be at least 6: "
                "2 times `server.decision_timeout_secs` and `admission.max_wait_secs`"
            ),
        ),
        (
            Settings(supervisor=SupervisorSettings(heartbeat_interval_secs=6)),
            "supervisor.heartbeat_timeout_secs: must be at least twice `supervisor.heartbeat_interval_secs`",
        ),
        (
            Settings(supervisor=SupervisorSettings(restart_backoff_secs=6)),
            "supervisor.restart_backoff_max_secs: must not be less than `supervisor.restart_backoff_secs`",
        ),
        (
            Settings(supervisor=SupervisorSettings(run_dir="/run/{index}")),
            "supervisor.run_dir: must be an absolute path without braces; is '/run/{index}'",
        ),
        (
            Settings(envoy=EnvoySettings(eds_file="eds.json")),
            "envoy.eds_file: must be an absolute path; is 'eds.json'",
        ),
        (
            Settings(envoy=EnvoySettings(eds_file="{run_dir}/{index}")),
            "envoy.eds_file: knows only `{run_dir}` in braces",
        ),
        (
            Settings(routing=RoutingSettings(policy="random_")),
            (
                "routing.policy: unknown policy 'random_', known are `cache_aware`, `random`, `round_robin` - "
                "did you mean `random`?"
            ),
        ),
        (
            Settings(recording=RecordingSettings(directory="/missing")),
            "recording.directory: '/missing' is not a directory that can be written to",
        ),
        (
            Settings(fleet=FleetSettings(health_path="health")),
            "fleet.health_path: must be a path that starts with `/`; is 'health'",
        ),
        (
            Settings(fleet=FleetSettings(health_path="/a b")),
            "fleet.health_path: must be a path that starts with `/`; is '/a b'",
        ),
        (
            Settings(fleet=FleetSettings(load_path="/metrics#all")),
            "fleet.load_path: must be a path that starts with `/`; is '/metrics#all'",
        ),
        (
            Settings(fleet=FleetSettings(load_interval_secs=0.09)),
            "fleet.load_interval_secs: must be 0 or at least 0.1",
        ),
        (
            Settings(fleet=FleetSettings(load_interval_secs=3)),
            "fleet.load_stale_secs: must be at least twice `fleet.load_interval_secs`",
        ),
        (
            Settings(routing=RoutingSettings(decision_header=True), envoy=EnvoySettings(response_headers=False)),
            "routing.decision_header: needs `envoy.response_headers: true`: the header is added in that phase",
        ),
        (
            Settings(tokens=TokensSettings(cache_bytes=1)),
            "tokens.cache_bytes: must be 0 or at least 16 MiB (16,777,216)",
        ),
        (
            Settings(tokens=TokensSettings(cache_bytes=16 * MIB - 1)),
            "tokens.cache_bytes: must be 0 or at least 16 MiB (16,777,216)",
        ),
        (
            Settings(envoy=EnvoySettings(forwarded_headers=("x-a*", "*"))),
            "envoy.forwarded_headers[1]: must be a header name in lower case, with `*` only at its end",
        ),
        (
            Settings(envoy=EnvoySettings(forwarded_headers=("x-a*", "X-B"))),
            "envoy.forwarded_headers[1]: must be a header name in lower case, with `*` only at its end",
        ),
    ],
)
def test_says_what_does_not_fit_together(settings: Settings, fault: str) -> None:
    assert faults_of(settings) == [fault]


@pytest.mark.parametrize(("cache_bytes", "load_interval_secs"), [(0, 0), (16 * MIB, 0.1), (16 * MIB, 2.5)])
def test_values_at_the_limit_are_good(cache_bytes: int, load_interval_secs: float) -> None:
    settings = Settings(
        fleet=FleetSettings(load_interval_secs=load_interval_secs),
        tokens=TokensSettings(cache_bytes=cache_bytes),
        server=ServerSettings(max_body_bytes=33 * MIB - 65536, decision_timeout_secs=4),
        supervisor=SupervisorSettings(heartbeat_interval_secs=5, restart_backoff_secs=5),
    )
    assert faults_of(settings) == []


def test_tls_files_must_be_there_when_they_are_used(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    server = ServerSettings(tls="files", shared_address="127.0.0.1:9002", tls_private_key_file=str(key))
    assert faults_of(Settings(server=server)) == [
        "server.tls_certificate_file: is required with `server.tls: files`",
        f"server.tls_private_key_file: '{key}' is not a file that can be read",
    ]
    certificate.write_text("")
    key.write_text("")
    assert faults_of(Settings(server=replace(server, tls_certificate_file=str(certificate)))) == []


def test_warns_of_what_is_allowed_and_likely_wrong() -> None:
    settings = Settings(
        envoy=EnvoySettings(upstream_idle_timeout_secs=5),
        server=ServerSettings(tls="self_signed", tls_private_key_file="/key.pem"),
    )
    assert find_warnings(settings) == [
        "envoy.upstream_idle_timeout_secs: vLLM closes idle connections after 5 s; Envoy must close them earlier",
        "server.tls_private_key_file: is not used while `server.tls` is `self_signed`",
        "server.tls: has no effect: all endpoints are unix sockets",
    ]


def test_warns_of_streams_that_end_before_their_answers() -> None:
    closed = Settings(envoy=EnvoySettings(fail_open=False))
    assert [warning.partition(":")[0] for warning in find_warnings(closed)] == ["server.streams_last"]
    assert find_warnings(replace(closed, server=ServerSettings(streams_last=False))) == []


def test_models_found_by_dns_are_expected_among_the_configured_ones() -> None:
    discovery = DiscoverySettings(dns_names=("vllm:80",), dns_models=("m", "x"))
    settings = Settings(models=(ModelSpec(name="m"),), discovery=discovery)
    assert find_warnings(settings) == [
        "discovery.dns_models[1]: 'x' is no name of one of the `models`, so it is routed without tokens"
    ]
    unused = replace(settings, discovery=replace(discovery, dns_names=(), dns_models=("m",)))
    assert find_warnings(unused) == ["discovery.dns_models: is not used while `discovery.dns_names` is empty"]


def test_warns_once_of_each_model_of_workers_that_is_not_configured() -> None:
    workers = (
        WorkerSpec(address="1.2.3.4:1", models=("m", "alias", "adapter", "other")),
        WorkerSpec(address="1.2.3.4:2", models=("other", "third")),
        WorkerSpec(address="1.2.3.4:3"),
    )
    models = (ModelSpec(name="m", lora_adapters=("adapter",)), ModelSpec(name="n", aliases=("alias",)))
    assert find_warnings(Settings(workers=workers, models=models)) == [
        "workers[0].models[3]: 'other' is no name of one of the `models`, so it is routed without tokens",
        "workers[1].models[1]: 'third' is no name of one of the `models`, so it is routed without tokens",
    ]
    assert find_warnings(Settings(workers=workers)) == []


def test_looks_at_what_policies_ask_for() -> None:
    settings = Settings(
        routing=RoutingSettings(policy="passthrough"),
        workers=(WorkerSpec(address="1.2.3.4:1"), WorkerSpec(address="1.2.3.4:2")),
        consistent_hashing=ConsistentHashingSettings(header_names=("authorization", "x-user")),
    )
    faults = [str(fault) for fault in find_faults(settings, policies=("passthrough",))]
    assert [fault.partition(":")[0] for fault in faults] == ["consistent_hashing.header_names", "routing.policy"]
    assert [warning.partition(":")[0] for warning in find_warnings(settings)] == ["consistent_hashing.header_names"] * 2


def test_reports_groups_and_lists_together() -> None:
    settings = Settings(
        routing=RoutingSettings(policy="x"),
        workers=(WorkerSpec(), WorkerSpec(address="1.2.3.4:5")),
        models=(ModelSpec(),),
        discovery=DiscoverySettings(plugins=("p",)),
        plugins=(PluginSpec("q"), PluginSpec()),
    )
    with pytest.raises(ConfigurationError) as caught:
        check_settings(settings, policies=POLICIES)
    assert caught.value.faults == [
        "routing.policy: unknown policy 'x', known are `cache_aware`, `random`, `round_robin`",
        "discovery.plugins[0]: unknown plugin 'p', none is installed",
        "workers[0].address: is required: `IP:PORT`",
        "models[0].name: is required: the `model` of requests",
        "plugins[0].name: unknown plugin 'q', none is installed",
        "plugins[1].name: is required: the name of an entry point",
    ]


NAMED = Settings(
    routing=RoutingSettings(policy="mine", shadow_policy="yours", override_policies=("random", "mine", "ours")),
    models=(ModelSpec(name="a"), ModelSpec(name="b", policy="theirs")),
    hooks=HookSettings(enabled=("mine", "tenant", "mine")),
)


def test_policies_and_hooks_may_be_those_of_installed_packages() -> None:
    installed = {PluginGroup.POLICIES: ("mine", "yours"), PluginGroup.HOOKS: ("tenants", "mine")}
    found = find_faults(NAMED, policies=POLICIES, plugin_names=lambda group: installed.get(PluginGroup(group), ()))
    known = "known are `cache_aware`, `mine`, `random`, `round_robin`, `yours`"
    assert [str(fault) for fault in found] == [
        f"routing.override_policies[2]: unknown policy 'ours', {known} - did you mean `yours`?",
        f"models[1].policy: unknown policy 'theirs', {known}",
        "hooks.enabled[1]: unknown plugin 'tenant', known are `mine`, `tenants` - did you mean `tenants`?",
        "hooks.enabled[2]: is listed twice",
    ]


def test_what_is_installed_is_only_asked_for_where_a_plugin_is_named() -> None:
    asked: list[str] = []

    def names(group: str) -> tuple[str, ...]:
        asked.append(group)
        return ()

    find_faults(Settings(routing=RoutingSettings(override_policies=POLICIES)), policies=POLICIES, plugin_names=names)
    assert asked == []
