"""The ``plugins`` list: its entries read and checked, and names of plugins compared with what is installed."""

import re
from collections.abc import Collection, Iterable

from extproc.config.entries import is_json_object, read_entries, too_many
from extproc.config.fault import Fault, closest, did_you_mean, shown
from extproc.config.plugins import PluginGroup, PluginNames, PluginSpec

MAX_PLUGINS = 64

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def read_plugins(value: object) -> tuple[tuple[PluginSpec, ...], list[Fault]]:
    """Read and check the list as the file's loader gave it; return the entries that could be read, and every fault."""
    readable, faults = read_entries(value, name="plugins", kind=PluginSpec, most=MAX_PLUGINS, needs="a `name`")
    return tuple(spec for _, spec in readable), faults + _plugin_faults(readable)


def find_plugin_faults(plugins: tuple[PluginSpec, ...]) -> list[Fault]:
    """Check entries that were made by other means than :func:`read_plugins`."""
    return too_many("plugins", plugins, MAX_PLUGINS) or _plugin_faults(enumerate(plugins))


def find_unknown_plugins(plugins: Iterable[PluginSpec], *, plugin_names: PluginNames) -> list[Fault]:
    """Return a fault for every entry with options for a plugin that is not installed, in whatever group."""
    wanted = [(index, spec.name) for index, spec in enumerate(plugins) if _NAME.fullmatch(spec.name)]
    installed = {name for group in PluginGroup for name in plugin_names(group)} if wanted else set()
    return [
        Fault(f"plugins[{index}].name", unknown_plugin(name, installed))
        for index, name in wanted
        if name not in installed
    ]


def unknown_plugin(name: str, installed: Collection[str]) -> str:
    """Return what to say of the name of a plugin that is not among those installed."""
    known = ", ".join(f"`{other}`" for other in sorted(installed))
    words = f"known are {known}" if known else "none is installed"
    return f"unknown plugin {shown(name)}, {words}{did_you_mean(closest(name, installed))}"


def _plugin_faults(plugins: Iterable[tuple[int, PluginSpec]]) -> list[Fault]:
    faults: list[Fault] = []
    owners: dict[str, int] = {}
    for index, spec in plugins:
        path = f"plugins[{index}]"
        if not spec.name:
            faults.append(Fault(f"{path}.name", "is required: the name of an entry point"))
        elif not _NAME.fullmatch(spec.name):
            faults.append(Fault(f"{path}.name", "must be 1 to 64 letters, digits and `. _ -`"))
        elif owners.setdefault(spec.name, index) != index:
            faults.append(Fault(f"{path}.name", f"is also that of plugins[{owners[spec.name]}]"))
        # What the options hold is not shown: a token may be among them.
        if spec.options and not is_json_object(spec.options):
            faults.append(Fault(f"{path}.options", 'must be a JSON object as text, such as `{"a": 1}`'))
    return faults
