"""Files and directories that settings name."""

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


def directory_problem(text: str) -> str:
    """Return what is wrong with the path of a directory that will be written to, or nothing."""
    try:
        writable = Path(text).is_dir() and os.access(text, os.R_OK | os.W_OK | os.X_OK)
    except OSError:
        writable = False
    if not writable:
        return f"{text!r} is not a directory that can be written to"
    return "" if Path(text).is_absolute() else f"must be an absolute path; is {text!r}"
