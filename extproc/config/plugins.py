"""Installed plugins: their kinds, and the options of one.

A plugin is an entry point of an installed Python package. Settings such as ``discovery.plugins`` name the plugins that
are used; an entry of the list ``plugins``, which no plugin has to have, gives one its options. A name is looked up in
each group by itself, so two plugins of one name and different kinds share their options.
"""

import dataclasses
import enum
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from extproc.config.setting import setting


class PluginGroup(enum.StrEnum):
    """The groups of entry points, one for each kind of plugin."""

    POLICIES = "extproc.policies"
    DISCOVERY = "extproc.discovery"
    HOOKS = "extproc.hooks"


PluginNames = Callable[[str], Collection[str]]
"""Returns the names of the installed plugins of a group; asked only when a configuration names a plugin."""


def no_plugins(_group: str) -> Collection[str]:
    """Return no name: what is installed where nothing was looked for."""
    return ()


@dataclasses.dataclass(frozen=True, slots=True)
class PluginSpec:
    """One entry of the `plugins` list: options for an installed plugin."""

    name: str = setting("", "Name of its entry point. Required; unique.")
    options: str = setting("", "JSON object that the plugin gets, as it is; see the plugin's own page. Empty: `{}`.")


def options_of(plugins: Iterable[PluginSpec], name: str) -> Mapping[str, Any]:
    """Return the options that a checked list has for a plugin; an empty mapping when it has none."""
    text = next((spec.options for spec in plugins if spec.name == name), "")
    return MappingProxyType(msgspec.json.decode(text, type=dict[str, Any]) if text else {})
