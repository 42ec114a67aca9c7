"""Files that settings name."""

import os
from pathlib import Path


def file_problem(text: str) -> str:
    """Return what is wrong with the path of a file that will be read, or nothing."""
    try:
        readable = Path(text).is_file() and os.access(text, os.R_OK)
    except OSError:
        # A directory that may not be entered, or a path that is too long.
        readable = False
    return "" if readable else f"{text!r} is not a file that can be read"
