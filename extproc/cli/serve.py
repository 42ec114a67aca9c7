"""``extproc serve``: run the service until it is told to stop."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from extproc.cli.flags import add_configuration_flags, settings_from
from extproc.cli.plugin_faults import find_plugin_faults_in_child
from extproc.config.check import find_warnings
from extproc.config.settings import Settings
from extproc.errors import ConfigurationError


class Serve(Protocol):
    """What runs the service and returns its exit code."""

    def __call__(self, settings: Settings, *, config_file: Path, reload: Callable[[], Settings]) -> int:
        """Run until told to stop; ``reload`` reads the configuration again, with the same flags."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of the command."""
    add_configuration_flags(parser)


def run(arguments: argparse.Namespace, *, serve: Serve | None = None) -> int:
    """Serve, by default under the supervisor. Nothing is started when the configuration is bad."""
    settings = _checked(arguments)
    for warning in find_warnings(settings):
        print(f"warning: {warning}", file=sys.stderr)
    return (serve or _supervisor())(settings, config_file=arguments.config, reload=lambda: _checked(arguments))


def _checked(arguments: argparse.Namespace) -> Settings:
    """Return the settings, whose plugins can be imported; raises :class:`ConfigurationError`."""
    settings = settings_from(arguments)
    if faults := find_plugin_faults_in_child(settings):
        raise ConfigurationError(faults)
    return settings


def _supervisor() -> Serve:
    from extproc.supervisor.supervisor import serve  # noqa: PLC0415 - only a good configuration pays for it

    return serve
