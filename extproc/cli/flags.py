"""The flags that every command which reads a configuration has: the file, and one flag for each setting."""

import argparse
import os
from pathlib import Path

from extproc.config.catalogue import Entry, entries, groups
from extproc.config.load import load_checked_settings
from extproc.config.reference import bounds_text, default_text
from extproc.config.settings import Settings
from extproc.plugins.entry_points import names
from extproc.policies.registry import POLICIES


def add_configuration_flags(parser: argparse.ArgumentParser) -> None:
    """Declare ``-c FILE`` and a flag for every setting, one argument group for each group of settings."""
    parser.usage = f"{parser.prog} -c FILE [--GROUP.SETTING VALUE ...]"
    parser.add_argument("-c", "--config", required=True, type=Path, metavar="FILE", help="configuration file (YAML)")
    for name in groups():
        section = parser.add_argument_group(f"settings of `{name}`")
        for entry in entries().values():
            if entry.path.startswith(f"{name}."):
                section.add_argument(
                    entry.flag, dest=entry.path, default=argparse.SUPPRESS, metavar="VALUE", help=_help(entry)
                )


def settings_from(arguments: argparse.Namespace) -> Settings:
    """Read and check the configuration that the command line names, with the environment of now.

    Raises :class:`ConfigurationError`.
    """
    flags = {path: text for path, text in vars(arguments).items() if path in entries()}
    return load_checked_settings(
        arguments.config, environ=os.environ, flags=flags, policies=POLICIES.keys(), plugin_names=names
    )


def _help(entry: Entry) -> str:
    bounds = bounds_text(entry)
    unit = f" {entry.declaration.unit}" if entry.declaration.unit else ""
    text = f"{entry.declaration.help} Default: {default_text(entry)}{unit}{f'; {bounds}' if bounds else ''}."
    return text.replace("%", "%%")
