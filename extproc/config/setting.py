"""How one setting is declared.

A group is a frozen dataclass; a setting is one of its fields, made with :func:`setting`. The name, type, default, unit,
bounds and help stand there and nowhere else: the file reader, environment names, command-line flags, the checks and the
reference table are all derived from it.
"""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class Declaration:
    """What is known of a setting besides its name and type.

    ``low`` and ``high`` are inclusive bounds; ``None`` leaves that side open. ``unit`` is for people, the field's name
    carries it too.
    """

    help: str
    unit: str = ""
    low: float | None = None
    high: float | None = None


def setting(
    default: object,
    help: str,  # noqa: A002 - the word that argparse and prometheus_client use for it
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
) -> Any:  # noqa: ANN401 - stands in for a field of any type, as dataclasses.field does
    """Declare one setting of a group; the field's annotation is its type."""
    declaration = Declaration(help=help, unit=unit, low=low, high=high)
    return dataclasses.field(default=default, metadata={"setting": declaration})
