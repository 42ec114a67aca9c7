"""Logs."""

import dataclasses
from typing import Literal

from extproc.config.setting import setting


@dataclasses.dataclass(frozen=True, slots=True)
class TelemetrySettings:
    """Settings of what is written for people and collectors."""

    log_level: Literal["debug", "info", "warning", "error"] = setting("info", "Least severe level that is written.")
    log_format: Literal["text", "json"] = setting("text", "One line of text, or one JSON object, per record.")
