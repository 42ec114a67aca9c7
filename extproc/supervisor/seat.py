"""One place in the service that must be filled: router 0, router 1, the observer.

::

    empty ──spawn──► starting ──READY──► serving ──told to stop──► retiring ──► gone
      ▲                 │                   │
      └──── back-off ◄──┴── dies, is stuck ─┘

Replacing a process that serves, for newer settings:

* A router: its successor starts beside it, in a slot of its own; when that is ready the old one is told to stop. So
  there are never fewer routers than configured. A successor that does not become ready is killed and the old one stays.
* The observer: two at once would both write the fleet document and Envoy's endpoint file, and the older could have the
  last word. So the old one stops first and its successor starts when it is gone. Meanwhile requests are routed by the
  fleet last published. A successor that does not become ready is given up and one with the old settings is started.
"""

import logging
import time
from collections.abc import Callable

from extproc.config.settings import Settings
from extproc.shm.processes import ProcessState, Role
from extproc.supervisor.backoff import Backoff
from extproc.supervisor.boot import EXIT_CANNOT_START, STOP_GRACE_SECS, process_name
from extproc.supervisor.nursery import Nursery
from extproc.supervisor.process import NS_PER_SEC, Cause, ChildProcess

logger = logging.getLogger(__name__)

SETTLED_SECS = 10.0
"""A process that was ready for this long is healthy; its death does not count towards the back-off."""


class Seat:
    """Keeps one place filled; the supervisor calls ``tick`` a few times a second and whenever a child ends.

    ``on_replaced`` is told of every process that had to be replaced or given up, with the cause. ``exclusive`` places
    never have two processes at once.
    """

    def __init__(
        self,
        *,
        role: Role,
        index: int,
        settings: Settings,
        nursery: Nursery,
        on_replaced: Callable[[Role, Cause], None],
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.role = role
        self.name = process_name(role, index)
        self.exclusive = role is Role.OBSERVER
        self.cannot_start = False
        self.replacement_failed = False
        self._index = index
        self._settings = settings
        self._nursery = nursery
        self._on_replaced = on_replaced
        self._clock = clock
        self._backoff = _backoff(settings)
        self._current: ChildProcess | None = None
        self._successor: ChildProcess | None = None
        self._retiring: list[ChildProcess] = []
        self._offer: Settings | None = None
        self._retry_at_ns = 0
        self._stopping = False

    @property
    def ready(self) -> bool:
        """Whether a process does the work of this place."""
        return self._current is not None and self._current.ready

    @property
    def settled(self) -> bool:
        """Whether nothing is under way, so that only a death or a stuck process can change anything."""
        return self.ready and not self._busy()

    @property
    def empty(self) -> bool:
        """Whether no process is left here."""
        return not self._children()

    @property
    def replacing(self) -> bool:
        """Whether a replacement is under way; afterwards ``replacement_failed`` tells how it went."""
        return self._offer is not None

    def tick(self, *, judge_heartbeats: bool) -> None:
        """Look after the processes: bury the dead, kill the stuck and the late, fill the place.

        ``judge_heartbeats`` is false while the supervisor itself has just been asleep.
        """
        now_ns = self._clock()
        for child in self._children():
            child.send()
            if child.reap():
                self._bury(child, now_ns)
            else:
                self._watch(child, now_ns, judge_heartbeats=judge_heartbeats)
        if self._stopping:
            return
        if self._offer is not None:
            self._advance_replacement(self._offer, now_ns)
        if self._current is None and now_ns >= self._retry_at_ns and not (self.exclusive and self._busy()):
            self._current = self._spawn(self._settings, now_ns)

    def replace(self, settings: Settings) -> None:
        """Begin to replace the process by one with these settings."""
        self._offer = settings
        self.replacement_failed = False
        if self.exclusive and self._current is not None:
            self._retire(self._current)
            self._current = None

    def stop(self) -> None:
        """Tell every process to drain and end, and start no more."""
        self._stopping = True
        self._offer = None
        for child in (self._current, self._successor):
            if child is not None:
                self._retire(child)
        self._current = self._successor = None

    def kill(self) -> None:
        """End every process at once."""
        for child in self._children():
            child.kill()

    def _children(self) -> list[ChildProcess]:
        serving = [child for child in (self._current, self._successor) if child is not None]
        return serving + self._retiring

    def _busy(self) -> bool:
        return bool(self._retiring) or self._offer is not None

    def _watch(self, child: ChildProcess, now_ns: int, *, judge_heartbeats: bool) -> None:
        limits = child.boot.settings.supervisor
        state = child.row.state
        if child.killed:
            return
        if child.deadline_ns and now_ns > child.deadline_ns:
            logger.warning("%s has not stopped in time: killing it", child.name)
            child.kill()
        elif state is ProcessState.STARTING:
            if now_ns - child.row.started_ns > limits.start_timeout_secs * NS_PER_SEC and not child.deadline_ns:
                logger.error("%s was not ready within %g s: killing it", child.name, limits.start_timeout_secs)
                child.kill(Cause.START_TIMEOUT)
        elif judge_heartbeats and child.heartbeat_age_secs(now_ns) > limits.heartbeat_timeout_secs:
            logger.error("%s is stuck, no heartbeat for %g s: killing it", child.name, limits.heartbeat_timeout_secs)
            child.kill(Cause.STUCK)
        elif state is ProcessState.READY and not child.ready_since_ns:
            child.ready_since_ns = now_ns
            logger.info("%s is ready", child.name)

    def _bury(self, child: ChildProcess, now_ns: int) -> None:
        self._nursery.bury(child)
        if child in self._retiring:
            self._retiring.remove(child)
            logger.info("%s has stopped: %s", child.name, child.ending())
            return
        logger.error("%s died: %s", child.name, child.ending())
        self.cannot_start = child.exit_code == EXIT_CANNOT_START
        if child is self._successor:
            self._successor = None
            self._on_replaced(self.role, Cause.RELOAD_FAILED)
            self._give_up_replacement()
        else:
            self._current = None
            self._lost(child.cause(), now_ns, ready_since_ns=child.ready_since_ns)

    def _lost(self, cause: Cause, now_ns: int, *, ready_since_ns: int) -> None:
        self._on_replaced(self.role, cause)
        ready_for_secs = (now_ns - ready_since_ns) / NS_PER_SEC if ready_since_ns else 0.0
        wait_secs = self._backoff.after_death(ready_for_secs=ready_for_secs)
        self._retry_at_ns = now_ns + int(wait_secs * NS_PER_SEC)
        logger.info("%s is replaced in %g s", self.name, wait_secs)

    def _spawn(self, settings: Settings, now_ns: int) -> ChildProcess | None:
        try:
            return self._nursery.spawn(role=self.role, index=self._index, settings=settings)
        except OSError:
            logger.exception("Cannot start a process for %s", self.name)
            self._lost(Cause.NOT_SPAWNED, now_ns, ready_since_ns=0)
            return None

    def _advance_replacement(self, offer: Settings, now_ns: int) -> None:
        if self._successor is None:
            if now_ns >= self._retry_at_ns and not (self.exclusive and self._retiring):
                self._successor = self._spawn(offer, now_ns)
        elif self._successor.ready:
            if self._current is not None:
                self._retire(self._current)
            self._on_replaced(self.role, Cause.RELOAD)
            self._current, self._successor = self._successor, None
            self._settings, self._offer = offer, None
            self._backoff = _backoff(offer)

    def _give_up_replacement(self) -> None:
        self._offer = None
        self._retry_at_ns = 0
        self.replacement_failed = True

    def _retire(self, child: ChildProcess) -> None:
        drain_secs = child.boot.settings.server.drain_timeout_secs + STOP_GRACE_SECS
        child.terminate(deadline_ns=self._clock() + int(drain_secs * NS_PER_SEC))
        self._retiring.append(child)


def _backoff(settings: Settings) -> Backoff:
    return Backoff(
        first_secs=settings.supervisor.restart_backoff_secs,
        longest_secs=settings.supervisor.restart_backoff_max_secs,
        settled_secs=SETTLED_SECS,
    )
