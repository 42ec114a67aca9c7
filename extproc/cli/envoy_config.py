"""``extproc envoy-config``: print the bootstrap of a standalone Envoy that goes with the configuration."""

import argparse

from extproc.cli.flags import add_configuration_flags, settings_from


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of the command."""
    add_configuration_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the bootstrap."""
    settings = settings_from(arguments)
    from extproc.dataplane.bootstrap import bootstrap_yaml  # noqa: PLC0415 - it loads Envoy's whole API: half a second

    print(bootstrap_yaml(settings), end="")
    return 0
