"""One value, from the file or from text, to the type of its setting.

Nothing is converted in silence: a quoted number is not a number and ``true`` is not one. The only widening is a whole
number for a setting that takes decimals. A ``ValueError`` carries the words for the operator.
"""

import math
import re
import typing
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal

from extproc.config.catalogue import Entry
from extproc.config.fault import MAX_WHOLE, closest, did_you_mean, shown

MAX_TEXT_LENGTH = 4096
MAX_LIST_LENGTH = 4096

_WHOLE = re.compile(r"[-+]?[0-9]+(?:_[0-9]+)*")
_DECIMAL = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_MAX_DIGITS = 32


def from_file(value: object, entry: Entry) -> Any:  # noqa: ANN401 - of the entry's type
    """Check a value as the file's loader gave it; raises ``ValueError`` saying what it must be."""
    if typing.get_origin(entry.type) is Literal:
        return _choice(value, typing.get_args(entry.type))
    return _within_bounds(_CONVERTERS[entry.type](value), entry)


def from_text(text: str, entry: Entry) -> Any:  # noqa: ANN401 - of the entry's type
    """Read a value from an environment variable or a flag; raises ``ValueError`` saying what it must be.

    A list is separated by commas.
    """
    if entry.type is bool and text in ("true", "false"):
        return text == "true"
    if entry.type is int and len(text) <= _MAX_DIGITS and _WHOLE.fullmatch(text):
        return from_file(int(text), entry)
    if entry.type is float and len(text) <= _MAX_DIGITS and _DECIMAL.fullmatch(text):
        return from_file(float(text), entry)
    if entry.type == tuple[str, ...]:
        return from_file([part.strip() for part in text.split(",")] if text else [], entry)
    return from_file(text, entry)


def type_name(type_: Any) -> str:  # noqa: ANN401 - any type of a setting
    """Name the type of a setting for people."""
    if typing.get_origin(type_) is Literal:
        return " or ".join(f"`{choice}`" for choice in typing.get_args(type_))
    return _NAMES[type_]


def _bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError(f"must be true or false, not {shown(value)}")


def _int(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_WHOLE:
        return value
    raise ValueError(f"must be a whole number, not {shown(value)}")


def _float(value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise ValueError(f"must be a number, not {shown(value)}")


def _str(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {shown(value)}{_quote_it(value)}")  # noqa: TRY004 - an operator's fault
    if len(value) > MAX_TEXT_LENGTH:
        raise ValueError(f"must be at most {MAX_TEXT_LENGTH:,} characters long")
    if not value.isprintable():
        raise ValueError(f"must be one line of printable text, not {shown(value)}")
    return value


def _quote_it(value: object) -> str:
    return " (put quotes around it)" if isinstance(value, (bool, int, float)) else ""


def _str_list(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"must be a list of text, not {shown(value)}")  # noqa: TRY004 - an operator's fault
    if len(value) > MAX_LIST_LENGTH:
        raise ValueError(f"must have at most {MAX_LIST_LENGTH:,} entries")
    items = []
    for index, item in enumerate(value):
        try:
            items.append(_str(item))
        except ValueError as error:
            raise ValueError(f"entry {index} {error}") from None
    return tuple(items)


def _choice(value: object, choices: tuple[str, ...]) -> str:
    if isinstance(value, str) and value in choices:
        return value
    hint = did_you_mean(closest(value, choices)) if isinstance(value, str) else ""
    raise ValueError(f"must be {' or '.join(f'`{choice}`' for choice in choices)}, not {shown(value)}{hint}")


def _within_bounds(value: Any, entry: Entry) -> Any:  # noqa: ANN401 - of the entry's type
    low, high = entry.declaration.low, entry.declaration.high
    unit = f" {entry.declaration.unit}" if entry.declaration.unit else ""
    if low is not None and value < low:
        raise ValueError(f"must be at least {low:,}{unit}, not {shown(value)}")
    if high is not None and value > high:
        raise ValueError(f"must be at most {high:,}{unit}, not {shown(value)}")
    return value


_CONVERTERS: Mapping[Any, Callable[[object], Any]] = MappingProxyType(
    {bool: _bool, int: _int, float: _float, str: _str, tuple[str, ...]: _str_list}
)
_NAMES: Mapping[Any, str] = MappingProxyType(
    {
        bool: "true or false",
        int: "whole number",
        float: "number",
        str: "text",
        tuple[str, ...]: "list of text",
    }
)
