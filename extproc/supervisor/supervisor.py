"""The parent of all processes: one synchronous loop that starts, watches, replaces and stops them.

It does no request work and has no event loop: whatever happens to the children, this code has little that can fail.
"""

import dataclasses
import logging
import os
import signal
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from extproc.config.endpoints import router_count
from extproc.config.settings import Settings
from extproc.errors import ConfigurationError, StartupError
from extproc.index.sticky_map import StickyMap, bytes_for
from extproc.shm.layout import Part
from extproc.shm.processes import ProcessRow, ProcessState, ProcessTable, Role
from extproc.shm.segment import Segment
from extproc.shm.token_store import TokenStore
from extproc.supervisor import shared_socket
from extproc.supervisor.boot import EXIT_CANNOT_START, EXIT_CLEAN
from extproc.supervisor.nursery import Nursery
from extproc.supervisor.process import NS_PER_SEC, Cause
from extproc.supervisor.roles import ENTRIES
from extproc.supervisor.run_directory import RunDirectory
from extproc.supervisor.seat import Seat
from extproc.supervisor.signals import SignalQueue
from extproc.telemetry.logging import configure_logging
from extproc.telemetry.metrics import Metrics, use_process_slot

logger = logging.getLogger(__name__)

TICK_SECS = 0.1
"""How often the processes are looked at while one is starting or stopping."""
IDLE_TICK_SECS = 1.0
"""How often while all are well. The end of a child wakes the supervisor in any case."""
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_FIXED = (
    "supervisor.routers",
    "supervisor.run_dir",
    "server.shared_address",
    "server.transport",
    "tokens.cache_bytes",
    "routing.prefix_index_bytes",
    "manual.max_entries",
)
"""Settings that shape what the supervisor set up at its start and cannot change under running children."""


def serve(
    settings: Settings,
    *,
    config_file: Path,
    reload: Callable[[], Settings],
    entries: Mapping[Role, str] = ENTRIES,
) -> int:
    """Run the service until it is told to stop, and return the exit code: 0, or 3 when it cannot start.

    ``reload`` reads the configuration again, on SIGHUP; it raises ``ConfigurationError`` when that cannot be used.
    Runs in the main thread, as it takes the process's signals over.
    """
    _configure_logging(settings)
    try:
        with ExitStack() as stack:
            run_directory = stack.enter_context(RunDirectory(Path(settings.supervisor.run_dir)))
            signals = stack.enter_context(SignalQueue((*_STOP_SIGNALS, signal.SIGHUP, signal.SIGCHLD)))
            with _or_cannot_start():
                segment = _make_segment(settings)
            stack.callback(segment.close)
            listening = _shared_socket(settings)
            if listening is not None:
                stack.enter_context(listening)
            row = _own_row(segment)
            # Read by prometheus_client when a metric is made; children get it through their environment.
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(run_directory.metrics)
            with _or_cannot_start():
                use_process_slot(row.slot)
                metrics = Metrics()
            nursery = Nursery(
                segment=segment,
                entries=entries,
                config_file=config_file,
                metrics_directory=run_directory.metrics,
                shared_socket_fd=None if listening is None else listening.fileno(),
            )
            return Supervisor(
                settings=settings, row=row, nursery=nursery, signals=signals, metrics=metrics, reload=reload
            ).run()
    except StartupError as error:
        logger.error("Cannot start: %s", error)  # noqa: TRY400 - the message is for the operator, the trace is not
        return EXIT_CANNOT_START


def _make_segment(settings: Settings) -> Segment:
    parts = {
        Part.TOKEN_STORE: settings.tokens.cache_bytes,
        Part.PREFIX_INDEX: settings.routing.prefix_index_bytes,
        Part.STICKY_MAP: bytes_for(settings.manual.max_entries),
    }
    segment = Segment.create({part: size for part, size in parts.items() if size})
    if settings.tokens.cache_bytes:
        TokenStore.prepare(segment.part(Part.TOKEN_STORE))
    StickyMap.prepare(segment.part(Part.STICKY_MAP))
    return segment


@contextmanager
def _or_cannot_start() -> Iterator[None]:
    """Take what the system refuses (memory, descriptors, disk space) for the reason why the service cannot start."""
    try:
        yield
    except OSError as error:
        raise StartupError(str(error)) from error


def _configure_logging(settings: Settings) -> None:
    telemetry = settings.telemetry
    configure_logging(level=telemetry.log_level, style=telemetry.log_format, process_name="supervisor")


def _shared_socket(settings: Settings) -> socket.socket | None:
    if not settings.server.shared_address or settings.server.transport != "native":
        return None
    return shared_socket.bind(settings.server.shared_address)


def _own_row(segment: Segment) -> ProcessRow:
    row = ProcessTable(segment).claim(role=Role.SUPERVISOR, index=0, now_ns=time.monotonic_ns())
    assert row is not None, "nobody else claims the supervisor's slot of a segment just made"
    row.pid = os.getpid()
    return row


class Supervisor:
    """The loop over all seats.

    Stopping: the routers first, so that they drain while the observer still watches the workers; the observer when the
    last router is gone. A second signal to stop kills what is left.

    SIGHUP: seat after seat is given the newer settings, the routers first, as their replacement leaves no gap. The
    first successor that does not become ready ends it: the rest stay as they are.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        row: ProcessRow,
        nursery: Nursery,
        signals: SignalQueue,
        metrics: Metrics,
        reload: Callable[[], Settings],
    ) -> None:
        self._settings = settings
        self._row = row
        self._signals = signals
        self._metrics = metrics
        self._reload = reload
        roles = [(Role.OBSERVER, 0), *((Role.ROUTER, index) for index in range(router_count(settings)))]
        self._seats = [
            Seat(role=role, index=index, settings=settings, nursery=nursery, on_replaced=self._count_replaced)
            for role, index in roles
        ]
        self._exit_code: int | None = None
        self._reload_wanted = False
        self._offer: Settings | None = None
        self._to_replace: deque[Seat] = deque()
        self._judge_after_ns = 0

    def run(self) -> int:
        """Run until everything has stopped; return the exit code.

        Should this code fail, its process ends, and the children drain and end as after any death of the supervisor.
        """
        while True:
            self._step()
            if self._exit_code is not None and all(seat.empty for seat in self._seats):
                logger.info("Stopped")
                return self._exit_code
            for number in self._signals.wait(self._tick_secs()):
                self._take(number)

    def _step(self) -> None:
        judge_heartbeats = self._awake()
        for seat in self._seats:
            seat.tick(judge_heartbeats=judge_heartbeats)
        if self._exit_code is not None:
            self._stop_observer_last()
        elif self._row.state is ProcessState.STARTING:
            self._check_first_start()
        else:
            self._advance_reload()

    def _tick_secs(self) -> float:
        if self._exit_code is None and all(seat.settled for seat in self._seats) and not self._offer:
            return min(IDLE_TICK_SECS, self._settings.supervisor.heartbeat_timeout_secs / 4)
        return min(TICK_SECS, self._settings.supervisor.heartbeat_timeout_secs / 4)

    def _awake(self) -> bool:
        """Beat, and tell whether heartbeats can be judged.

        After a pause of the whole machine or container every heartbeat is old, and nobody is to blame.
        """
        now_ns = time.monotonic_ns()
        timeout_ns = int(self._settings.supervisor.heartbeat_timeout_secs * NS_PER_SEC)
        if now_ns - self._row.heartbeat_ns > timeout_ns // 2:
            self._judge_after_ns = now_ns + timeout_ns
        self._row.heartbeat_ns = now_ns
        return now_ns >= self._judge_after_ns

    def _take(self, number: signal.Signals) -> None:
        if number == signal.SIGHUP:
            self._reload_wanted = True
        elif number in _STOP_SIGNALS:
            if self._exit_code is None:
                logger.info("Stopping: %s", number.name)
                self._stop(EXIT_CLEAN)
            else:
                logger.warning("Stopping at once: %s", number.name)
                for seat in self._seats:
                    seat.stop()
                    seat.kill()

    def _check_first_start(self) -> None:
        if any(seat.cannot_start for seat in self._seats):
            logger.error("A process cannot start, and starting it again would not help: stopping")
            self._stop(EXIT_CANNOT_START)
        elif all(seat.ready for seat in self._seats):
            self._row.state = ProcessState.READY
            logger.info("ready: %s", self._census())

    def _census(self) -> str:
        count = Counter(seat.role for seat in self._seats)
        return ", ".join(f"{n} {role.name.lower()}{'s' if n != 1 else ''}" for role, n in sorted(count.items()))

    def _stop(self, exit_code: int) -> None:
        self._exit_code = exit_code
        self._row.state = ProcessState.DRAINING
        for seat in self._seats:
            if seat.role is not Role.OBSERVER:
                seat.stop()

    def _stop_observer_last(self) -> None:
        if all(seat.empty for seat in self._seats if seat.role is not Role.OBSERVER):
            for seat in self._seats:
                seat.stop()

    def _advance_reload(self) -> None:
        if self._offer is None:
            if self._reload_wanted:
                self._reload_wanted = False
                self._begin_reload()
            return
        seat = self._to_replace[0]
        if seat.replacing:
            return
        if seat.replacement_failed:
            logger.error("The reload ends here: %s could not start with the settings read; the rest stay", seat.name)
            self._offer = None
            return
        self._to_replace.popleft()
        if self._to_replace:
            self._to_replace[0].replace(self._offer)
        else:
            self._settings, self._offer = self._offer, None
            _configure_logging(self._settings)
            logger.info("reloaded: %s", self._census())

    def _begin_reload(self) -> None:
        try:
            settings = self._reload()
        except ConfigurationError as error:
            for fault in error.faults:
                logger.error("Not reloaded: %s", fault)  # noqa: TRY400 - the faults are for the operator
            return
        except Exception:
            logger.exception("Not reloaded: reading the configuration failed")  # the service must outlive it
            return
        self._offer = self._with_fixed(settings)
        self._to_replace = deque(sorted(self._seats, key=lambda seat: seat.exclusive))
        logger.info("reloading: replacing one process after the other")
        self._to_replace[0].replace(self._offer)

    def _with_fixed(self, settings: Settings) -> Settings:
        """Keep what cannot change while running, and say so."""
        for path in _FIXED:
            group, name = path.split(".")
            running = getattr(getattr(self._settings, group), name)
            if getattr(getattr(settings, group), name) != running:
                logger.warning("%s is changed, which takes a restart; going on with %r", path, running)
                kept = dataclasses.replace(getattr(settings, group), **{name: running})
                settings = dataclasses.replace(settings, **{group: kept})
        return settings

    def _count_replaced(self, role: Role, cause: Cause) -> None:
        self._metrics.restarts.labels(role=role.name.lower(), cause=cause.value).inc()
