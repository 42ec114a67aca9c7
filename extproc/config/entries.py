"""Lists of the file whose entries are mappings: what reading and checking them has in common."""

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from extproc.config.catalogue import Entry, fields_of
from extproc.config.convert import from_file
from extproc.config.fault import Fault, shown, unknown_keys

MAX_MODEL_NAME_LENGTH = 256

Spec = TypeVar("Spec")


def read_entries(
    value: object, *, name: str, kind: type[Spec], most: int, needs: str
) -> tuple[list[tuple[int, Spec]], list[Fault]]:
    """Read the list ``name`` as the file's loader gave it; return the entries that could be read, and every fault.

    Each entry is a ``kind``, a dataclass of settings, and comes with its index in the file; at most ``most`` are read.
    ``needs`` is the setting that no entry can do without, with its article, for the message about an entry that is no
    mapping. Values are checked by themselves only, not among each other.
    """
    if not isinstance(value, list):
        return [], [Fault(name, f"must be a list, not {shown(value)}")]
    if faults := too_many(name, value, most):
        return [], faults
    readable: list[tuple[int, Spec]] = []
    known = fields_of(kind)
    for index, item in enumerate(value):
        path = f"{name}[{index}]"
        if not isinstance(item, dict):
            faults.append(Fault(path, f"must be a mapping with {needs}, not {shown(item)}"))
            continue
        values, found = _read_entry(path, item, known)
        faults += found
        if not found:
            readable.append((index, kind(**values)))
    return readable, faults


def too_many(path: str, items: Sequence[object], most: int) -> list[Fault]:
    """Return a fault when a list is too long."""
    return [Fault(path, f"must have at most {most:,} entries, not {len(items):,}")] if len(items) > most else []


def model_name_problem(name: str) -> str:
    """Return what is wrong with the name of a model by itself, or nothing."""
    return "" if 0 < len(name) <= MAX_MODEL_NAME_LENGTH else f"must be 1 to {MAX_MODEL_NAME_LENGTH} characters long"


def is_json_object(text: str) -> bool:
    """Whether ``text`` is one JSON object."""
    try:
        msgspec.json.decode(text, type=dict[str, object])
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _read_entry(path: str, item: dict[str, Any], known: dict[str, Entry]) -> tuple[dict[str, Any], list[Fault]]:
    faults = unknown_keys(path, item, known)
    values: dict[str, Any] = {}
    for name, entry in known.items():
        if name in item:
            try:
                values[name] = from_file(item[name], entry)
            except ValueError as error:
                faults.append(Fault(f"{path}.{name}", str(error)))
    return values, faults
