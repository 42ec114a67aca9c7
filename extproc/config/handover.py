"""Settings on their way to a child process: plain JSON data and back, exactly.

The parent has checked the values; the child only rebuilds them, so a child never refuses what its parent accepted.
"""

import dataclasses
from typing import Any

import msgspec

from extproc.config.settings import Settings


def settings_to_json(settings: Settings) -> dict[str, Any]:
    """Return the settings as data that ``json.dumps`` takes."""
    return dataclasses.asdict(settings)


def settings_from_json(document: dict[str, Any]) -> Settings:
    """Rebuild what :func:`settings_to_json` returned, before or after a trip through JSON text.

    Raises ``msgspec.ValidationError`` when the document is something else.
    """
    return msgspec.convert(document, Settings)
