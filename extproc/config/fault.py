"""What is wrong with a configuration, and a guess at what was meant."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from types import MappingProxyType

MAX_WHOLE = 2**53
"""Largest whole number that every reader of JSON keeps exact."""

MAX_UNKNOWN_KEYS = 32
_LONGEST_SHOWN = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a configuration.

    ``path`` is the setting that a reader would change; ``involves`` are the other settings the verdict depends on, so
    that it can be left out when one of those could not be read.
    """

    path: str
    message: str
    involves: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that ``word`` is probably meant to be."""
    if len(word) > _LONGEST_SHOWN:
        return None
    return next(iter(difflib.get_close_matches(word, sorted(known), n=1)), None)


def did_you_mean(meant: str | None) -> str:
    """Return a question to add to a message, or nothing when there is no guess."""
    return f" - did you mean `{meant}`?" if meant else ""


def shown(value: object) -> str:
    """Quote a value of unknown origin in a message: short, on one line, and never the inside of a container."""
    if isinstance(value, str):
        return f"{value[:_LONGEST_SHOWN]!a}{'...' if len(value) > _LONGEST_SHOWN else ''}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) or (isinstance(value, int) and abs(value) <= MAX_WHOLE):
        return repr(value)
    kinds = {type(None): "nothing", int: "a larger one", list: "a list", dict: "a mapping"}
    return kinds.get(type(value), "this")


def unknown_keys(
    path: str,
    mapping: Mapping[str, object],
    known: Iterable[str],
    *,
    elsewhere: Mapping[str, str] = MappingProxyType({}),
) -> list[Fault]:
    """Return a fault for every key of ``mapping`` that is not known; the first ones one by one, the rest as a number.

    ``elsewhere`` has the whole path of keys that would be right in another place.
    """
    known = set(known)
    unknown = [key for key in mapping if key not in known]
    faults = []
    for key in unknown[:MAX_UNKNOWN_KEYS]:
        meant = closest(key, known) or elsewhere.get(closest(key, elsewhere) or "")
        faults.append(Fault(f"{path}.{bare(key)}" if path else bare(key), f"unknown key{did_you_mean(meant)}"))
    if len(unknown) > MAX_UNKNOWN_KEYS:
        faults.append(Fault(path or "the file", f"{len(unknown) - MAX_UNKNOWN_KEYS:,} more unknown keys"))
    return faults


def bare(word: str) -> str:
    """Return a word of unknown origin as it may stand in a path: as :func:`shown`, without the quotes."""
    return shown(word).strip("'\"")
