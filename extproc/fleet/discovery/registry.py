"""The sources that a configuration asks for, in the order in which they are taken to be right. The only list."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from extproc.config.address import TcpAddress, parse
from extproc.config.discovery import DiscoverySettings
from extproc.config.dns_name import parse_dns_name
from extproc.config.plugins import PluginSpec, options_of
from extproc.fleet.discovery.base import NamedSource, Source
from extproc.fleet.discovery.endpoints_file import endpoints_source
from extproc.fleet.discovery.plugin import PluginSource
from extproc.fleet.discovery.restarting import RestartingSource
from extproc.fleet.discovery.retry import Retry
from extproc.fleet.discovery.static import static_source
from extproc.telemetry.metrics import DiscoveryMetrics, Metrics

STATIC = "static"
FILE = "file"
DNS_PREFIX = "dns:"
PLUGIN_PREFIX = "plugin:"

Makers = dict[str, Callable[[], Source]]
"""What makes each source, by its name in logs and metrics."""


def build_sources(
    *,
    discovery: DiscoverySettings,
    plugins: tuple[PluginSpec, ...],
    config_file: Path,
    reload_interval_secs: float,
    workers_required: bool,
    metrics: Metrics,
    discovery_metrics: DiscoveryMetrics,
) -> tuple[NamedSource, ...]:
    """Return every source that is configured, the configuration's own lists first; the settings are checked ones.

    Each is kept going by a :class:`~extproc.fleet.discovery.restarting.RestartingSource`. ``reload_interval_secs`` is
    how often files are looked at, ``workers_required`` says whether the configuration file has to name workers.
    """
    makers: Makers = {
        STATIC: lambda: static_source(
            path=config_file,
            interval_secs=reload_interval_secs,
            workers_required=workers_required,
            metrics=metrics,
        )
    }
    if discovery.file:
        makers[FILE] = lambda: endpoints_source(
            name=FILE,
            path=Path(discovery.file),
            interval_secs=reload_interval_secs,
            metrics=discovery_metrics,
        )
    makers.update(_dns_makers(discovery, discovery_metrics))
    for plugin in discovery.plugins:
        name = PLUGIN_PREFIX + plugin
        makers[name] = partial(
            PluginSource,
            name=name,
            plugin=plugin,
            options=options_of(plugins, plugin),
            metrics=discovery_metrics,
        )
    retry = Retry(discovery.retry_secs, discovery.retry_max_secs)
    return tuple(
        NamedSource(name, RestartingSource(name=name, make=make, retry=retry, metrics=discovery_metrics))
        for name, make in makers.items()
    )


def _dns_makers(discovery: DiscoverySettings, metrics: DiscoveryMetrics) -> Makers:
    if not discovery.dns_names:
        return {}
    # A fifth of a second to import, and only needed here.
    from extproc.fleet.discovery.dns import DnsSource  # noqa: PLC0415
    from extproc.fleet.discovery.dns_answers import TtlBounds  # noqa: PLC0415
    from extproc.fleet.discovery.dns_lookup import DnsLookup, server_resolver, system_resolver  # noqa: PLC0415

    resolver = system_resolver
    if discovery.dns_server:
        server = parse(discovery.dns_server)
        assert isinstance(server, TcpAddress)
        resolver = partial(server_resolver, server)
    lookup = DnsLookup(resolver=resolver, timeout_secs=discovery.dns_timeout_secs)
    return {
        DNS_PREFIX + text: partial(
            DnsSource,
            label=DNS_PREFIX + text,
            name=parse_dns_name(text),
            models=discovery.dns_models,
            lookup=lookup,
            ttl=TtlBounds(discovery.dns_min_ttl_secs, discovery.dns_max_ttl_secs),
            retry=Retry(discovery.retry_secs, discovery.retry_max_secs),
            metrics=metrics,
        )
        for text in discovery.dns_names
    }
