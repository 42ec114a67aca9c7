"""The ``plugins`` list: its entries read and checked, and names of plugins compared with what is installed."""

import re
from collections.abc import Collection, Iterable

from extproc.config.entries import is_json_object, read_entries, too_many
from extproc.config.fault import Fault, closest, did_you_mean, shown
from extproc.config.plugins import PluginGroup, PluginNames, PluginSpec

MAX_PLUGINS = 64

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def read_plugins(
    value: object, *, plugin_names: PluginNames | None = None
) -> tuple[tuple[PluginSpec, ...], list[Fault]]:
    """Read and check the list as the file's loader gave it; return the entries that could be read, and every fault.

    With ``plugin_names``, each entry has to be for a plugin that is installed, of whatever kind.
    """
    readable, faults = read_entries(value, name="plugins", kind=PluginSpec, most=MAX_PLUGINS, needs="a `name`")
    return tuple(spec for _, spec in readable), faults + _plugin_faults(readable, plugin_names)


def find_plugin_faults(plugins: tuple[PluginSpec, ...], *, plugin_names: PluginNames | None = None) -> list[Fault]:
    """Check entries that were made by other means than :func:`read_plugins`."""
    return too_many("plugins", plugins, MAX_PLUGINS) or _plugin_faults(enumerate(plugins), plugin_names)


def unknown_plugin(name: str, installed: Collection[str]) -> str:
    """Return what to say of the name of a plugin that is not among those installed."""
    known = ", ".join(f"`{other}`" for other in sorted(installed))
    words = f"known are {known}" if known else "none is installed"
    return f"unknown plugin {shown(name)}, {words}{did_you_mean(closest(name, installed))}"


def _plugin_faults(plugins: Iterable[tuple[int, PluginSpec]], plugin_names: PluginNames | None) -> list[Fault]:
    faults: list[Fault] = []
    owners: dict[str, int] = {}
    installed: frozenset[str] | None = None
    for index, spec in plugins:
        path = f"plugins[{index}]"
        if plugin_names and installed is None:
            installed = frozenset(name for group in PluginGroup for name in plugin_names(group))
        if problem := _name_problem(spec.name, index, owners, installed):
            faults.append(Fault(f"{path}.name", problem))
        # What the options hold is not shown: a token may be among them.
        if spec.options and not is_json_object(spec.options):
            faults.append(Fault(f"{path}.options", 'must be a JSON object as text, such as `{"a": 1}`'))
    return faults


def _name_problem(name: str, index: int, owners: dict[str, int], installed: Collection[str] | None) -> str:
    """Return what is wrong with the name of entry ``index``, or nothing; ``owners`` says whose names are taken."""
    if not name:
        return "is required: the name of an entry point"
    if not _NAME.fullmatch(name):
        return "must be 1 to 64 letters, digits and `. _ -`"
    if owners.setdefault(name, index) != index:
        return f"is also that of plugins[{owners[name]}]"
    return "" if installed is None or name in installed else unknown_plugin(name, installed)
