"""What of a source's list is not used: counted and logged once, for as long as it lasts."""

import logging
from collections.abc import Iterable

from extproc.fleet.discovery.base import FaultReason
from extproc.telemetry.metrics import DiscoveryMetrics

logger = logging.getLogger(__name__)

MAX_NAMED = 8


class LeftOut:
    """Remembers what one source has had left out, by reason; what stays left out is not told again."""

    def __init__(self, *, source: str, metrics: DiscoveryMetrics) -> None:
        self._source = source
        self._faults = metrics.faults
        self._known: dict[tuple[FaultReason, str], frozenset[str]] = {}

    def note(self, reason: FaultReason, names: Iterable[str], *, part: str = "", why: str) -> None:
        """Take everything that is left out now for a reason; count and log what was not before.

        Lists of several parts of a source are kept apart by ``part``.
        """
        now = frozenset(names)
        before = self._known.pop((reason, part), frozenset())
        if now:
            self._known[reason, part] = now
        if new := sorted(now - before):
            self._faults.labels(self._source, reason).inc(len(new))
            named = ", ".join(new[:MAX_NAMED]) + (", ..." if len(new) > MAX_NAMED else "")
            logger.warning("Discovery by %s: %d left out, %s: %s", self._source, len(new), why, named)
