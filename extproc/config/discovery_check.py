"""What must hold of the settings of discovery, beyond each value by itself."""

from collections.abc import Iterable

from extproc.config.address import TcpAddress, parse
from extproc.config.discovery import DiscoverySettings
from extproc.config.dns_name import parse_dns_name
from extproc.config.entries import too_many
from extproc.config.fault import Fault, shown
from extproc.config.files import file_problem
from extproc.config.plugin_list import MAX_PLUGINS, unknown_plugin
from extproc.config.plugins import PluginGroup, PluginNames
from extproc.config.workers import find_model_name_faults

MAX_DNS_NAMES = 64


def find_discovery_faults(discovery: DiscoverySettings, *, plugin_names: PluginNames) -> list[Fault]:
    """Return what is wrong. Looks for the endpoints file, without reading it."""
    faults = []
    if discovery.file and (problem := file_problem(discovery.file)):
        faults.append(Fault("discovery.file", problem))
    return [
        *faults,
        *_dns_names(discovery.dns_names),
        *_dns_server(discovery.dns_server),
        *find_model_name_faults("discovery.dns_models", discovery.dns_models),
        *_times(discovery),
        *_plugins(discovery.plugins, plugin_names),
    ]


def find_discovery_warnings(discovery: DiscoverySettings) -> list[Fault]:
    """Return what is set without effect."""
    if discovery.dns_names:
        return []
    return [
        Fault(path, "is not used while `discovery.dns_names` is empty")
        for path, value in (
            ("discovery.dns_models", discovery.dns_models),
            ("discovery.dns_server", discovery.dns_server),
        )
        if value
    ]


def _dns_names(names: tuple[str, ...]) -> list[Fault]:
    path = "discovery.dns_names"
    if faults := too_many(path, names, MAX_DNS_NAMES):
        return faults
    faults = _named_twice(path, names)
    for index, name in enumerate(names):
        try:
            parse_dns_name(name)
        except ValueError as error:
            faults.append(Fault(f"{path}[{index}]", str(error)))
    return faults


def _dns_server(text: str) -> list[Fault]:
    if not text:
        return []
    try:
        address = parse(text)
        good = isinstance(address, TcpAddress) and address.port and address.is_numeric
    except ValueError:
        good = False
    words = f"must be `IP:PORT`, such as `10.0.0.2:53`; is {shown(text)}"
    return [] if good else [Fault("discovery.dns_server", words)]


def _times(discovery: DiscoverySettings) -> list[Fault]:
    rules = (
        ("dns_max_ttl_secs", "dns_min_ttl_secs"),
        ("retry_max_secs", "retry_secs"),
    )
    return [
        Fault(f"discovery.{most}", f"must not be less than `discovery.{least}`", (f"discovery.{least}",))
        for most, least in rules
        if getattr(discovery, most) < getattr(discovery, least)
    ]


def _plugins(names: tuple[str, ...], plugin_names: PluginNames) -> list[Fault]:
    path = "discovery.plugins"
    if faults := too_many(path, names, MAX_PLUGINS):
        return faults
    installed = plugin_names(PluginGroup.DISCOVERY) if names else ()
    unknown = [
        Fault(f"{path}[{index}]", unknown_plugin(name, installed))
        for index, name in enumerate(names)
        if name not in installed
    ]
    return _named_twice(path, names) + unknown


def _named_twice(path: str, names: Iterable[str]) -> list[Fault]:
    first: dict[str, int] = {}
    return [
        Fault(f"{path}[{index}]", f"is also entry {first[name]}")
        for index, name in enumerate(names)
        if first.setdefault(name, index) != index
    ]
