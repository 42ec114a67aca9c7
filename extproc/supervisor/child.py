"""The first code of every child: ``python -m extproc.supervisor.child``.

Exit codes: what the role returns; 3 when it cannot start; 1 on any other fault, which is logged.
"""

import faulthandler
import logging
import signal
import sys

from extproc.errors import StartupError
from extproc.supervisor import roles
from extproc.supervisor.boot import EXIT_CANNOT_START, EXIT_FAULT, ChildBoot
from extproc.telemetry.logging import configure_logging
from extproc.telemetry.metrics import use_process_slot

logger = logging.getLogger(__name__)


def main() -> int:
    """Read what the supervisor says, become that role, and return the exit code."""
    # Ctrl-C and a closed terminal are for the supervisor to decide on; it sends SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    faulthandler.enable()
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        return EXIT_FAULT  # the supervisor is gone already
    boot = ChildBoot.from_line(line)
    telemetry = boot.settings.telemetry
    configure_logging(level=telemetry.log_level, style=telemetry.log_format, process_name=boot.name)
    use_process_slot(boot.slot)
    return _run(boot)


def _run(boot: ChildBoot) -> int:
    try:
        entry = roles.load(boot.entry)
    except (ImportError, AttributeError):
        logger.exception("Cannot load %s", boot.entry)
        return EXIT_CANNOT_START
    try:
        return entry(boot)
    except StartupError as error:
        logger.error("Cannot start: %s", error)  # noqa: TRY400 - the message is for the operator, the trace is not
        return EXIT_CANNOT_START
    except Exception:
        logger.exception("%s failed", boot.name)
        return EXIT_FAULT


if __name__ == "__main__":
    sys.exit(main())
