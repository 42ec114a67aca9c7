"""``extproc record``: live traffic of a running service to a trace that can be replayed.

The service is told over its admin port to record for a while; it needs no restart, only ``recording.directory`` in its
configuration. Its routers write there, and when the time is over, or at Ctrl-C, their parts become one file of JSON
lines (:mod:`extproc.recording.merge`). It holds numbers and names, no text of any prompt or answer.
"""

import argparse
import os
import signal
import sys
import threading
import time
from pathlib import Path

from extproc.cli.recording_client import RecordingClient, admin_address
from extproc.cli.trace_file import TraceFile
from extproc.errors import StartupError
from extproc.recording.control import MAX_SECS, MIN_BYTES, RecordingStatus, RecordingWanted
from extproc.recording.merge import Contents, read_contents, trace_lines
from extproc.recording.record import PART_PATTERN

DEFAULT_SECS = 60.0
POLL_SECS = 0.5
WRITE_PATIENCE_SECS = 10.0
"""How long routers may take to write what they hold when the recording is over."""
ADMIN_PATIENCE_SECS = 20.0
"""How long the admin port may be away meanwhile, as while its process is replaced."""
EXIT_NOTHING = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of the command."""
    parser.add_argument(
        "--out", required=True, type=Path, metavar="FILE", help="trace to write (JSON lines); a new file"
    )
    parser.add_argument(
        "--secs", type=_secs, default=DEFAULT_SECS, metavar="N", help=f"how long (default: {DEFAULT_SECS:g} seconds)"
    )
    parser.add_argument(
        "--max-bytes",
        type=_bytes,
        metavar="N",
        help="most that the trace may take (default: what the configuration allows)",
    )
    service = parser.add_mutually_exclusive_group()
    service.add_argument("-c", "--config", type=Path, metavar="FILE", help="the service's configuration file")
    service.add_argument("--admin", metavar="HOST:PORT", help="the service's admin port, instead")
    service.add_argument(
        "--merge",
        type=Path,
        nargs="+",
        metavar="PART",
        help="record nothing, and make a trace of the parts of one recording that are left in the directory",
    )


def run(arguments: argparse.Namespace) -> int:
    """Record; 0 when there is a trace, 1 when no request came. Raises :class:`StartupError` when there can be none."""
    stop = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda _signum, _frame: stop.set())
    with TraceFile(arguments.out, max_bytes=arguments.max_bytes) as trace:
        if arguments.merge:
            return _merge(_of_one_recording(arguments.merge), trace)
        client = RecordingClient(admin_address(arguments.config, arguments.admin))
        directory = _usable_directory(client.status())
        status = client.begin(RecordingWanted(secs=arguments.secs, max_bytes=arguments.max_bytes))
        recording = status.recording
        assert recording is not None, "one has begun"
        _say(f"Recording for {arguments.secs:g} s; Ctrl-C ends it early and keeps what is recorded.")
        unwritten = _Recording(client, recording).wait(arguments.secs, stop)
        if unwritten:
            _say(f"warning: {unwritten}")
        return _merge(sorted(directory.glob(f"{recording}-*.part")), trace)


class _Recording:
    """A recording under way."""

    def __init__(self, client: RecordingClient, recording: str) -> None:
        self._client = client
        self._recording = recording

    def wait(self, secs: float, stop: threading.Event) -> str:
        """Wait until it is over and written, and return what is missing, in words, or nothing."""
        until = time.monotonic() + secs
        away_since = 0.0
        while not stop.wait(min(POLL_SECS, max(0.0, until - time.monotonic()))) and time.monotonic() < until:
            try:
                status = self._client.status()
            except StartupError:
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > ADMIN_PATIENCE_SECS:
                    break
            else:
                away_since = 0.0
                if status.recording != self._recording or not status.secs_left:
                    break
        return self._wait_written()

    def _wait_written(self) -> str:
        deadline = time.monotonic() + WRITE_PATIENCE_SECS
        words = ""
        while time.monotonic() < deadline:
            try:
                # Ends it, or clears what is over.
                status = self._client.end(self._recording)
            except StartupError as error:
                words = f"the service has not said whether it has written everything: {error}"
            else:
                if status.recording != self._recording or not status.unwritten:
                    return ""
                words = f"{status.unwritten} router(s) have not written everything in time"
            time.sleep(POLL_SECS / 5)
        return words


def _merge(paths: list[Path], trace: TraceFile) -> int:
    """Make the trace and remove its parts; they stay, and :class:`StartupError` is raised, when that fails."""
    try:
        code = _write([path.read_bytes() for path in paths], trace)
    except OSError as error:
        raise StartupError(
            f"the trace cannot be written: {error}. Try again with --merge {' '.join(map(str, paths))}"
        ) from error
    for path in paths:
        path.unlink(missing_ok=True)
    return code


def _write(parts: list[bytes], trace: TraceFile) -> int:
    contents = read_contents(parts)
    for words in _holes(contents):
        _say(f"warning: {words}")
    if not contents.places:
        _say("No request was recorded, so there is no trace.")
        return EXIT_NOTHING
    for line in trace_lines(parts, contents):
        if not trace.add(line):
            _say(f"warning: {len(contents.places) - trace.lines:,} requests are left out, as the trace is full")
            break
    trace.finish()
    secs = contents.places[trace.lines - 1][0] - contents.places[0][0] if trace.lines else 0.0
    print(f"{trace.path}: {trace.lines:,} requests over {secs:.1f} s, {trace.size:,} bytes.")
    return 0


def _of_one_recording(paths: list[Path]) -> list[Path]:
    """Check what is to be merged; ids of different recordings mean different things."""
    found = [PART_PATTERN.fullmatch(path.name) for path in paths]
    if len({match and match["recording"] for match in found}) != 1 or not all(found):
        raise StartupError("--merge: these are not the parts (RECORDING-SLOT-PID.part) of one recording")
    return sorted(set(paths))


def _holes(contents: Contents) -> list[str]:
    words = []
    if contents.left_out:
        words.append(f"{contents.left_out:,} requests found no room and are left out")
    if contents.unfinished:
        words.append(f"{contents.unfinished} router(s) ended before they had written everything")
    if contents.torn:
        words.append(f"{contents.torn} half-written request(s) are left out")
    return words


def _usable_directory(status: RecordingStatus) -> Path:
    if not status.directory:
        raise StartupError("the service does not allow recording: set `recording.directory` in its configuration")
    directory = Path(status.directory)
    if not directory.is_dir() or not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise StartupError(
            f"the service records in {directory}, which cannot be used from here: run this on its machine, as its user"
        )
    return directory


def _secs(text: str) -> float:
    secs = float(text)
    if not 0 < secs <= MAX_SECS:
        raise argparse.ArgumentTypeError(f"must be more than 0 and at most {MAX_SECS:g}")
    return secs


def _bytes(text: str) -> int:
    number = int(text)
    if number < MIN_BYTES:
        raise argparse.ArgumentTypeError(f"must be at least {MIN_BYTES:,}")
    return number


def _say(words: str) -> None:
    print(words, file=sys.stderr)
