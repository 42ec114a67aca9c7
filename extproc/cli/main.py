"""The ``extproc`` command: finds the subcommand, runs it, and turns errors into exit codes.

Only the chosen subcommand's module is imported, so that help is quick and a running service carries no code it does not
use. Exit codes: 0 success, 2 bad configuration or usage, 3 cannot start; ``extproc demo`` has 1 for a failed request,
``extproc tokenize`` for a refused one, ``extproc record`` when there was nothing to record.
"""

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType, ModuleType

from extproc import __version__
from extproc.errors import ConfigurationError, StartupError

EXIT_BAD_CONFIGURATION = 2
EXIT_CANNOT_START = 3
EXIT_INTERRUPTED = 130

Commands = Mapping[str, tuple[str, str]]

COMMANDS: Commands = MappingProxyType(
    {
        "serve": ("extproc.cli.serve", "run the service"),
        "check": ("extproc.cli.check", "validate the configuration, and Envoy's bootstrap when Envoy is installed"),
        "envoy-config": ("extproc.cli.envoy_config", "print the bootstrap of a standalone Envoy"),
        "tokenize": ("extproc.cli.tokenize", "show what becomes of a prompt: text, ids, boundaries, cache, timings"),
        "simulate": ("extproc.cli.simulate", "play a load against policies in virtual time and compare them"),
        "record": ("extproc.cli.record", "record live traffic of a running service to a trace: numbers only, no text"),
        "demo": ("extproc.cli.demo", "show the whole path on this machine, with a real Envoy"),
    }
)
"""Module and purpose of every subcommand; a module has ``add_arguments(parser)`` and ``run(arguments) -> int``."""


def main(argv: Sequence[str] | None = None, *, commands: Commands = COMMANDS) -> int:
    """Run the command line; ``argv`` is without the program's name.

    Raises ``SystemExit``, as argparse does, for wrong usage (2) and after help or the version (0).
    """
    words = sys.argv[1:] if argv is None else list(argv)
    # No option before the subcommand takes a value, so the first word that is no option is the subcommand.
    chosen = next((word for word in words if not word.startswith("-")), "")
    parser, module = _parser(chosen, commands)
    arguments = parser.parse_args(words)
    if module is None:
        parser.error("a command is required")
    try:
        code = module.run(arguments)
    except ConfigurationError as error:
        _complain("The configuration cannot be used:", *(f"  {fault}" for fault in error.faults))
        return EXIT_BAD_CONFIGURATION
    except StartupError as error:
        _complain(f"Cannot start: {error}")
        return EXIT_CANNOT_START
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return int(code)


def _parser(chosen: str, commands: Commands) -> tuple[argparse.ArgumentParser, ModuleType | None]:
    """Return the parser, complete for the chosen subcommand only, and that subcommand's module."""
    parser = argparse.ArgumentParser(
        prog="extproc", description="LLM-aware routing for Envoy: an external processor.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"extproc {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", title="commands")
    module = None
    for name, (path, purpose) in commands.items():
        subparser = subparsers.add_parser(name, help=purpose, allow_abbrev=False)
        if name == chosen:
            subparser.description = f"{purpose[0].upper()}{purpose[1:]}."
            module = importlib.import_module(path)
            module.add_arguments(subparser)
    return parser, module


def _complain(*lines: str) -> None:
    print(*lines, sep="\n", file=sys.stderr)
