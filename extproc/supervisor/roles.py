"""The table of roles: which code a process of a role runs.

Entries are text, so that the supervisor never loads what a child runs: it stays small, and a fault in a role's imports
is the child's fault.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType

from extproc.shm.processes import Role
from extproc.supervisor.boot import ChildBoot

Entry = Callable[[ChildBoot], int]
"""Runs a role to its end and returns the exit code."""

ENTRIES: Mapping[Role, str] = MappingProxyType(
    {
        Role.ROUTER: "extproc.router.main:run",
        Role.OBSERVER: "extproc.observer.main:run",
    }
)


def load(entry: str) -> Entry:
    """Import ``module:function``. Raises ``ImportError`` or ``AttributeError`` when there is no such thing."""
    module, _, function = entry.partition(":")
    loaded: Entry = getattr(import_module(module), function)
    return loaded
