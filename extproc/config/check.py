"""What must hold between settings, and between a setting and this machine.

Each check returns faults; none stops the others. What can be said of one value by itself (type, bounds) is said by its
declaration; the lists, discovery and the addresses to listen on have modules of their own.
"""

import re
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath

from extproc.config.discovery_check import find_discovery_faults, find_discovery_warnings
from extproc.config.endpoints import eds_file
from extproc.config.fault import Fault, closest, did_you_mean, shown
from extproc.config.files import directory_problem, file_problem
from extproc.config.listen import find_listen_faults, unknown_placeholder
from extproc.config.model_list import find_model_faults, names_of
from extproc.config.plugin_list import find_plugin_faults, unknown_plugin
from extproc.config.plugins import PluginGroup, PluginNames, no_plugins
from extproc.config.policy_check import find_policy_faults, find_policy_warnings
from extproc.config.server import MIB
from extproc.config.settings import Settings
from extproc.config.workers import find_worker_faults
from extproc.errors import ConfigurationError

HEADERS_ROOM_BYTES = 64 * 1024
"""Room for headers and framing beside a body in one gRPC message."""

MIN_MESSAGE_TIMEOUT_RATIO = 2
"""Envoy must outwait our own watchdog, or it gives up while the answer is on its way."""

MIN_CACHE_BYTES = 16 * MIB
"""A smaller token cache has too few blocks to keep anything for long."""

MIN_LOAD_INTERVAL_SECS = 0.1
"""Reading a load ten times a second takes vLLM 5 to 9 % of the thread that serves its requests."""

_HEADER_PATTERN = re.compile(r"[a-z0-9!#$%&'+.^_`|~-]+\*?")

ENGINE_KEEP_ALIVE_SECS = 5.0
"""After this vLLM closes an idle connection; a request sent at that moment is lost."""


def check_settings(settings: Settings, *, policies: Collection[str], plugin_names: PluginNames = no_plugins) -> None:
    """Raise :class:`ConfigurationError` with everything that is wrong with the settings as a whole.

    ``policies`` are the names that ``routing.policy`` may have, ``plugin_names`` those of the installed plugins. Looks
    at the files that settings name, without reading them.
    """
    faults = [
        *find_faults(settings, policies=policies, plugin_names=plugin_names),
        *find_worker_faults(settings.workers),
        *find_model_faults(settings.models),
        *find_plugin_faults(settings.plugins, plugin_names=plugin_names),
    ]
    if faults:
        raise ConfigurationError([str(fault) for fault in faults])


def find_faults(
    settings: Settings, *, policies: Collection[str], plugin_names: PluginNames = no_plugins
) -> list[Fault]:
    """Return what is wrong besides the lists."""
    return [
        *find_listen_faults(settings),
        *_paths(settings),
        *_tls(settings),
        *_sizes_and_times(settings),
        *_routing(settings, policies, plugin_names),
        *_hooks(settings.hooks.enabled, plugin_names),
        *find_policy_faults(settings),
        *_fleet(settings),
        *_tokens(settings),
        *_recording(settings),
        *_forwarded_headers(settings.envoy.forwarded_headers),
        *find_discovery_faults(settings.discovery, plugin_names=plugin_names),
    ]


def find_warnings(settings: Settings) -> list[str]:
    """Return what is allowed and still likely to be a mistake, each starting with the path of the setting."""
    warnings: list[Fault] = []
    if settings.envoy.upstream_idle_timeout_secs >= ENGINE_KEEP_ALIVE_SECS:
        words = f"vLLM closes idle connections after {ENGINE_KEEP_ALIVE_SECS:g} s; Envoy must close them earlier"
        warnings.append(Fault("envoy.upstream_idle_timeout_secs", words))
    server = settings.server
    if server.tls != "files":
        warnings += [
            Fault(path, f"is not used while `server.tls` is `{server.tls}`")
            for path, text in _tls_files(settings)
            if text
        ]
    if server.tls != "off" and server.router_address.startswith("unix:") and not server.shared_address:
        warnings.append(Fault("server.tls", "has no effect: all endpoints are unix sockets"))
    warnings += find_discovery_warnings(settings.discovery)
    warnings += find_policy_warnings(settings)
    if server.streams_last and not settings.envoy.fail_open:
        words = (
            "streams of requests whose body is not read end early with `envoy.fail_open: false`, and so does the count "
            "of what is in flight: set it to `false`"
        )
        warnings.append(Fault("server.streams_last", words))
    warnings += _unknown_models(settings)
    return [str(warning) for warning in warnings]


def _unknown_models(settings: Settings) -> list[Fault]:
    """Return what to say of models that workers serve and that are not configured, once for each."""
    if not settings.models:
        return []
    known = {name for spec in settings.models for name in names_of(spec)}
    served = {f"workers[{index}].models": worker.models for index, worker in enumerate(settings.workers)}
    served["discovery.dns_models"] = settings.discovery.dns_models
    warnings = []
    for path, names in served.items():
        for position, name in enumerate(names):
            if name not in known:
                words = f"{shown(name)} is no name of one of the `models`, so it is routed without tokens"
                warnings.append(Fault(f"{path}[{position}]", words))
                known.add(name)
    return warnings


def _paths(settings: Settings) -> list[Fault]:
    faults = []
    run_dir = settings.supervisor.run_dir
    if not PurePosixPath(run_dir).is_absolute() or "{" in run_dir or "}" in run_dir:
        faults.append(Fault("supervisor.run_dir", f"must be an absolute path without braces; is {shown(run_dir)}"))
    path = "envoy.eds_file"
    if problem := unknown_placeholder(settings.envoy.eds_file, "{run_dir}"):
        faults.append(Fault(path, problem))
    elif not PurePosixPath(eds_file(settings)).is_absolute():
        words = f"must be an absolute path; is {shown(eds_file(settings))}"
        faults.append(Fault(path, words, ("supervisor.run_dir",)))
    return faults


def _tls_files(settings: Settings) -> tuple[tuple[str, str], ...]:
    server = settings.server
    return (
        ("server.tls_certificate_file", server.tls_certificate_file),
        ("server.tls_private_key_file", server.tls_private_key_file),
    )


def _tls(settings: Settings) -> list[Fault]:
    if settings.server.tls != "files":
        return []
    faults = []
    for path, text in _tls_files(settings):
        if not text:
            faults.append(Fault(path, "is required with `server.tls: files`", ("server.tls",)))
        elif problem := file_problem(text):
            faults.append(Fault(path, problem, ("server.tls",)))
    return faults


def _sizes_and_times(settings: Settings) -> list[Fault]:
    server, supervisor, envoy = settings.server, settings.supervisor, settings.envoy
    least_message = server.max_body_bytes + HEADERS_ROOM_BYTES
    least_timeout = MIN_MESSAGE_TIMEOUT_RATIO * server.decision_timeout_secs + settings.admission.max_wait_secs
    rules = (
        (
            server.max_message_bytes >= least_message,
            Fault(
                "server.max_message_bytes",
                f"must be at least {least_message:,}: `server.max_body_bytes` and {HEADERS_ROOM_BYTES:,} for headers",
                ("server.max_body_bytes",),
            ),
        ),
        (
            envoy.message_timeout_secs >= least_timeout,
            Fault(
                "envoy.message_timeout_secs",
                f"must be at least {least_timeout:g}: {MIN_MESSAGE_TIMEOUT_RATIO} times `server.decision_timeout_secs` "
                "and `admission.max_wait_secs`",
                ("server.decision_timeout_secs", "admission.max_wait_secs"),
            ),
        ),
        (
            settings.tokens.max_wait_secs < server.decision_timeout_secs,
            Fault(
                "tokens.max_wait_secs",
                f"must be less than `server.decision_timeout_secs`, {server.decision_timeout_secs:g}",
                ("server.decision_timeout_secs",),
            ),
        ),
        (
            supervisor.heartbeat_timeout_secs >= 2 * supervisor.heartbeat_interval_secs,
            Fault(
                "supervisor.heartbeat_timeout_secs",
                "must be at least twice `supervisor.heartbeat_interval_secs`",
                ("supervisor.heartbeat_interval_secs",),
            ),
        ),
        (
            supervisor.restart_backoff_max_secs >= supervisor.restart_backoff_secs,
            Fault(
                "supervisor.restart_backoff_max_secs",
                "must not be less than `supervisor.restart_backoff_secs`",
                ("supervisor.restart_backoff_secs",),
            ),
        ),
    )
    return [fault for holds, fault in rules if not holds]


def named_policies(settings: Settings) -> list[tuple[str, str]]:
    """Return every policy that the settings name, with the path of the setting."""
    routing = settings.routing
    named = [("routing.policy", routing.policy)]
    named += [("routing.shadow_policy", routing.shadow_policy)] if routing.shadow_policy else []
    named += [(f"routing.override_policies[{index}]", name) for index, name in enumerate(routing.override_policies)]
    return named + [
        (f"models[{index}].policy", spec.policy) for index, spec in enumerate(settings.models) if spec.policy
    ]


def _routing(settings: Settings, policies: Collection[str], plugin_names: PluginNames) -> list[Fault]:
    routing = settings.routing
    named = named_policies(settings)
    unknown = [(path, name) for path, name in named if name not in policies]
    everyone = {*policies, *plugin_names(PluginGroup.POLICIES)} if unknown else ()
    faults = [Fault(path, _unknown_policy(name, everyone)) for path, name in unknown if name not in everyone]
    if routing.decision_header and not settings.envoy.response_headers:
        words = "needs `envoy.response_headers: true`: the header is added in that phase"
        faults.append(Fault("routing.decision_header", words, ("envoy.response_headers",)))
    return faults


def _fleet(settings: Settings) -> list[Fault]:
    fleet = settings.fleet
    paths = (("fleet.health_path", fleet.health_path), ("fleet.load_path", fleet.load_path))
    faults = [
        Fault(path, f"must be a path that starts with `/`; is {shown(text)}")
        for path, text in paths
        if not text.startswith("/") or not text.isascii() or " " in text or "#" in text
    ]
    if 0 < fleet.load_interval_secs < MIN_LOAD_INTERVAL_SECS:
        faults.append(Fault("fleet.load_interval_secs", f"must be 0 or at least {MIN_LOAD_INTERVAL_SECS:g}"))
    if fleet.load_stale_secs < 2 * fleet.load_interval_secs:
        words = "must be at least twice `fleet.load_interval_secs`"
        faults.append(Fault("fleet.load_stale_secs", words, ("fleet.load_interval_secs",)))
    return faults


def _hooks(names: Sequence[str], plugin_names: PluginNames) -> list[Fault]:
    installed = plugin_names(PluginGroup.HOOKS) if names else ()
    faults = []
    for index, name in enumerate(names):
        if name not in installed:
            faults.append(Fault(f"hooks.enabled[{index}]", unknown_plugin(name, installed)))
        elif name in names[:index]:
            faults.append(Fault(f"hooks.enabled[{index}]", "is listed twice"))
    return faults


def _unknown_policy(name: str, policies: Collection[str]) -> str:
    known = ", ".join(f"`{policy}`" for policy in sorted(policies))
    return f"unknown policy {shown(name)}, known are {known}{did_you_mean(closest(name, policies))}"


def _tokens(settings: Settings) -> list[Fault]:
    if 0 < settings.tokens.cache_bytes < MIN_CACHE_BYTES:
        words = f"must be 0 or at least {MIN_CACHE_BYTES // MIB} MiB ({MIN_CACHE_BYTES:,})"
        return [Fault("tokens.cache_bytes", words)]
    return []


def _recording(settings: Settings) -> list[Fault]:
    directory = settings.recording.directory
    problem = directory_problem(directory) if directory else ""
    return [Fault("recording.directory", problem)] if problem else []


def _forwarded_headers(names: Sequence[str]) -> list[Fault]:
    return [
        Fault(f"envoy.forwarded_headers[{index}]", "must be a header name in lower case, with `*` only at its end")
        for index, name in enumerate(names)
        if not _HEADER_PATTERN.fullmatch(name)
    ]
