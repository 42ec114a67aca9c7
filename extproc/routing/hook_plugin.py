"""Makes the hooks that a configuration asks for out of installed packages."""

from collections.abc import Iterable
from typing import Any

from extproc.config.plugins import PluginGroup, PluginSpec, options_of
from extproc.errors import PluginUnusable
from extproc.plugins.entry_points import load
from extproc.routing.hooks import RequestHook


def load_hook(name: str) -> type[Any]:
    """Return the class of a hook plugin; raises :class:`PluginUnusable`."""
    found = load(PluginGroup.HOOKS, name)
    if not isinstance(found, type):
        raise PluginUnusable(f"{name}: must be a class, not {type(found).__name__}")
    if not callable(getattr(found, "on_request", None)):
        raise PluginUnusable(f"{name}: {found.__name__} has no method `on_request`")
    if not isinstance(getattr(found, "needs_body", None), bool):
        raise PluginUnusable(f"{name}: `needs_body` of {found.__name__} is neither True nor False")
    return found


def make_hooks(names: Iterable[str], *, plugins: tuple[PluginSpec, ...]) -> tuple[tuple[str, RequestHook], ...]:
    """Return the hooks of these names, in order, each made with its options; raises :class:`PluginUnusable`."""
    hooks = []
    for name in names:
        hook = load_hook(name)
        try:
            hooks.append((name, hook(options=options_of(plugins, name))))
        except Exception as error:
            raise PluginUnusable(f"{name}: it cannot be made: {type(error).__name__}: {error}") from error
    return tuple(hooks)
