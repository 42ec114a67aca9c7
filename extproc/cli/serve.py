"""``extproc serve``: run the service until it is told to stop."""

import argparse
import sys

from extproc.cli.flags import add_configuration_flags, settings_from
from extproc.config.check import find_warnings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of the command."""
    add_configuration_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve; returns the supervisor's exit code. Nothing is started when the configuration is bad."""
    settings = settings_from(arguments)
    for warning in find_warnings(settings):
        print(f"warning: {warning}", file=sys.stderr)
    from extproc.supervisor.supervisor import serve  # noqa: PLC0415 - only a good configuration pays for it

    return serve(settings, config_file=arguments.config, reload=lambda: settings_from(arguments))
