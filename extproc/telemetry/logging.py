"""Log records as lines of text or as JSON objects on standard error."""

import json
import logging
import sys
from typing import Literal

_TEXT = "%(asctime)s %(levelname)-7s %(process_name)s %(name)s: %(message)s"


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "process": getattr(record, "process_name", ""),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def configure_logging(
    *, level: Literal["debug", "info", "warning", "error"], style: Literal["text", "json"], process_name: str
) -> None:
    """Send this process's log records to standard error, marked with ``process_name`` (`router-0`, `observer`)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if style == "json" else logging.Formatter(_TEXT))

    def add_process_name(record: logging.LogRecord) -> bool:
        record.process_name = process_name
        return True

    handler.addFilter(add_process_name)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
