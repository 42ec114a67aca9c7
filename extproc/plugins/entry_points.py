"""Entry points of installed packages: which there are, and the object that one names.

Listing them reads the packages' metadata and runs none of their code; loading one imports it.
"""

import importlib.metadata
from typing import Any

from extproc.errors import PluginUnusable


def names(group: str) -> tuple[str, ...]:
    """Return the names of the plugins of a group, sorted; takes some milliseconds for each hundred packages."""
    return tuple(sorted({point.name for point in importlib.metadata.entry_points(group=group)}))


def load(group: str, name: str) -> Any:  # noqa: ANN401 - whatever the package names; its user checks it
    """Import and return what the entry point ``name`` of ``group`` names.

    Raises :class:`PluginUnusable` with the reason: there is none, several packages have one, or importing it fails in
    whatever way.
    """
    found = sorted(importlib.metadata.entry_points(group=group, name=name), key=_owner)
    if not found:
        raise PluginUnusable(f"{name}: no installed package has an entry point of that name in the group `{group}`")
    if len({point.value for point in found}) > 1:
        owners = " and ".join(f"{_owner(point)} ({point.value})" for point in found)
        raise PluginUnusable(f"{name}: several packages have an entry point of that name in `{group}`: {owners}")
    point = found[0]
    try:
        return point.load()
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}"
        raise PluginUnusable(f"{name}: {point.value} of {_owner(point)} cannot be imported: {reason}") from error


def _owner(point: importlib.metadata.EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unnamed package"
