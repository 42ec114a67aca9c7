"""Whether the plugins that a configuration names can be imported: ``python -m extproc.cli.plugin_faults``.

Run so it reads settings as JSON on its standard input and prints the faults as one line of JSON. The service asks a
process of its own at its start and at each reload, as the supervisor loads nothing of what its children run, and must
outlive whatever a plugin does when it is imported.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator

from extproc.config.check import named_policies
from extproc.config.handover import settings_from_json, settings_to_json
from extproc.config.settings import Settings
from extproc.errors import PluginUnusable
from extproc.policies.registry import POLICIES

IMPORT_TIMEOUT_SECS = 60.0


def find_plugin_faults(settings: Settings) -> list[str]:
    """Import every plugin as the routers and the observer do; return what is wrong, each with the setting's path."""
    faults = []
    for path, load, name in _named(settings):
        try:
            load(name)
        except PluginUnusable as error:
            faults.append(f"{path}: {error}")
    return faults


def find_plugin_faults_in_child(settings: Settings, *, timeout_secs: float = IMPORT_TIMEOUT_SECS) -> list[str]:
    """Do the same in a child process; none is started where no plugin is named."""
    paths = ", ".join(path for path, _, _ in _named(settings))
    if not paths:
        return []
    try:
        done = subprocess.run(  # noqa: S603 - our own module
            [sys.executable, "-m", __name__],
            input=json.dumps(settings_to_json(settings)),
            stdout=subprocess.PIPE,
            text=True,
            timeout=timeout_secs,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [f"{paths}: importing the plugins takes longer than {timeout_secs:g} s"]
    try:
        return [str(fault) for fault in json.loads(done.stdout)]
    except ValueError:
        return [f"{paths}: importing the plugins ended the process, with status {done.returncode}"]


def _named(settings: Settings) -> Iterator[tuple[str, Callable[[str], object], str]]:
    """Yield the path of each setting that names a plugin, what loads it, and the name."""
    for path, name in named_policies(settings):
        if name not in POLICIES:
            from extproc.policies.plugin import load_policy  # noqa: PLC0415 - few need it

            yield path, load_policy, name
    for index, name in enumerate(settings.discovery.plugins):
        from extproc.fleet.discovery.plugin import load_factory  # noqa: PLC0415 - few need it

        yield f"discovery.plugins[{index}]", load_factory, name
    for index, name in enumerate(settings.hooks.enabled):
        from extproc.routing.hook_plugins import load_hook  # noqa: PLC0415 - few need it

        yield f"hooks.enabled[{index}]", load_hook, name


def main() -> int:
    """Do what the module says; returns the exit code."""
    settings = settings_from_json(json.loads(sys.stdin.read()))
    with contextlib.redirect_stdout(sys.stderr):
        # Whatever a plugin prints is for people.
        faults = find_plugin_faults(settings)
    print(json.dumps(faults))
    return 0


if __name__ == "__main__":
    sys.exit(main())
