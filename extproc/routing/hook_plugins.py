"""Request hooks of installed packages: entry points of the group ``extproc.hooks``."""

from collections.abc import Iterable
from typing import Any

from extproc.config.plugins import PluginGroup, PluginSpec, options_of
from extproc.errors import PluginUnusable
from extproc.plugins.entry_points import load
from extproc.routing.hooks import RequestHook


def make_hooks(names: Iterable[str], plugins: tuple[PluginSpec, ...]) -> tuple[tuple[str, RequestHook], ...]:
    """Make the hooks called ``names``, each with its options; raises :class:`PluginUnusable`."""
    made = []
    for name in names:
        kind = load_hook(name)
        try:
            hook: RequestHook = kind(options=options_of(plugins, name))
        except Exception as error:
            raise PluginUnusable(f"{name}: cannot be made: {type(error).__name__}: {error}") from error
        made.append((name, hook))
    return tuple(made)


def load_hook(name: str) -> Any:  # noqa: ANN401 - somebody else's class
    """Import a hook's class; raises :class:`PluginUnusable` when it is none."""
    found = load(PluginGroup.HOOKS, name)
    if not isinstance(getattr(found, "needs_body", None), bool) or not callable(getattr(found, "on_request", None)):
        raise PluginUnusable(f"{name}: is no hook: it has no `needs_body` or no `on_request`")
    return found
