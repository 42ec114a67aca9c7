"""Every setting by its names: in the file, in the environment, as a flag.

Derived from the declarations, so a setting that is declared can be set in every way at once.
"""

import dataclasses
import functools
import typing
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from extproc.config.setting import Declaration
from extproc.config.settings import Settings

ENVIRONMENT_PREFIX = "EXTPROC_"


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One setting: where it stands, its type, its default and what is declared of it.

    ``path`` is ``GROUP.NAME`` for a setting of a group, and for a field of a list entry the field's name alone.
    """

    path: str
    type: Any
    default: Any
    declaration: Declaration

    @property
    def environment_name(self) -> str:
        """The variable that sets it."""
        return ENVIRONMENT_PREFIX + self.path.replace(".", "_").upper()

    @property
    def flag(self) -> str:
        """The command-line flag that sets it."""
        return "--" + self.path.replace("_", "-")


def fields_of(group: type, *, prefix: str = "") -> dict[str, Entry]:
    """Return the settings that a dataclass declares, by field name."""
    types = typing.get_type_hints(group)
    return {
        field.name: Entry(prefix + field.name, types[field.name], field.default, field.metadata["setting"])
        for field in dataclasses.fields(group)
    }


@functools.cache
def groups() -> Mapping[str, type]:
    """Return the groups by their names in the file."""
    types = typing.get_type_hints(Settings)
    return MappingProxyType({name: types[name] for name in types if dataclasses.is_dataclass(types[name])})


@functools.cache
def entries() -> Mapping[str, Entry]:
    """Return every setting of every group by its path."""
    return MappingProxyType(
        {
            entry.path: entry
            for name, group in groups().items()
            for entry in fields_of(group, prefix=f"{name}.").values()
        }
    )
