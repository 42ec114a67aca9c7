"""The command line, and the table of it in the README."""

import argparse
import dataclasses
import functools
from collections.abc import Sequence
from types import NoneType
from typing import Any, get_args, get_origin

from workers.simulated.faults import Mode
from workers.simulated.settings import Declaration, Settings


def parse_flags(arguments: Sequence[str]) -> Settings:
    """Read the command line. Prints the fault and exits with status 2 when it cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m workers.simulated", description="Simulated vLLM workers.")
    for field in dataclasses.fields(Settings):
        _add_flag(parser, field)
    given: dict[str, Any] = vars(parser.parse_args(arguments))
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    settings = Settings(**values)
    faults = [*_misplaced(given, modelled=bool(settings.profile)), *settings.faults()]
    if faults:
        parser.error("; ".join(faults))
    return settings


def _misplaced(given: dict[str, Any], *, modelled: bool) -> list[str]:
    """Say which flags were given that mean nothing beside the others."""
    return [
        f"--{_flag(field)} means nothing {'with' if modelled else 'without'} --profile"
        for field in dataclasses.fields(Settings)
        if field.name in given and field.metadata["setting"].modelled == (not modelled)
    ]


def flag_table() -> str:
    """Every flag as a Markdown table, as the README shows it."""
    rows = ["| flag | default | what |", "|---|---|---|"]
    for field in dataclasses.fields(Settings):
        declaration: Declaration = field.metadata["setting"]
        choices = f" One of {', '.join(f'`{mode}`' for mode in get_args(Mode))}." if field.name == "mode" else ""
        what = declaration.help + choices + (" Needs `--profile`." if declaration.modelled else "")
        rows.append(f"| `--{_flag(field)}` | {_shown_default(field)} | {what} |")
    return "\n".join(rows)


def _shown_default(field: "dataclasses.Field[Any]") -> str:
    declaration: Declaration = field.metadata["setting"]
    if field.default is None:
        return declaration.unset
    if field.default is False:
        return "off"
    default = ", ".join(field.default) if isinstance(field.default, tuple) else field.default
    return f"`{default}`" if default != "" else ""


def _flag(field: "dataclasses.Field[Any]") -> str:
    declaration: Declaration = field.metadata["setting"]
    return declaration.flag or field.name.replace("_", "-")


def _add_flag(parser: argparse.ArgumentParser, field: "dataclasses.Field[Any]") -> None:
    declaration: Declaration = field.metadata["setting"]
    # Only what was given is set, so that it can be told from a default.
    options: dict[str, Any] = {
        "dest": field.name, "help": declaration.help.replace("%", "%%"), "default": argparse.SUPPRESS,
    }  # fmt: skip
    if field.type is bool:
        options["action"] = "store_true"
    elif get_origin(field.type) is tuple:
        options |= {"action": "append", "metavar": "NAME"}
    elif field.type is Mode:
        options["choices"] = get_args(Mode)
    else:
        kind = next(kind for kind in (*get_args(field.type), field.type) if kind is not NoneType)
        options |= {"type": functools.partial(_bounded, kind, declaration), "metavar": "TEXT" if kind is str else "N"}
    parser.add_argument(f"--{_flag(field)}", **options)


def _bounded(kind: Any, declaration: Declaration, text: str) -> Any:  # noqa: ANN401 - str, int or float by the field
    try:
        value = kind(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from error
    if kind is str:
        return value
    # Written so that NaN is out of bounds too.
    if declaration.low is not None and not value >= declaration.low:
        raise argparse.ArgumentTypeError(f"{text} is below {declaration.low}")
    if declaration.high is not None and not value <= declaration.high:
        raise argparse.ArgumentTypeError(f"{text} is above {declaration.high}")
    return value
