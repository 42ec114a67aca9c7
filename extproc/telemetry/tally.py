"""Metrics of the hot path: kept as plain numbers, written to their metric a few times a second.

Writing a ``prometheus_client`` metric in multiprocess mode costs about a microsecond and a request touches five, a
fifth of all it costs; a number costs a twentieth of that. A process that is killed loses what it had not yet written.
"""

from bisect import bisect_left

from prometheus_client import Counter, Histogram


class Tally:
    """Counts for one counter."""

    __slots__ = ("_counter", "_pending")

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._pending = 0

    def inc(self) -> None:
        """Count one."""
        self._pending += 1

    def add(self, amount: int) -> None:
        """Count ``amount``."""
        self._pending += amount

    def flush(self) -> int:
        """Write what was counted since the last time, and return it."""
        pending, self._pending = self._pending, 0
        if pending:
            self._counter.inc(pending)
        return pending


class TallyHistogram(Histogram):
    """A histogram without labels that is observed in numbers and written by :meth:`flush`."""

    def _metric_init(self) -> None:
        super()._metric_init()
        self._pending = [0] * len(self._upper_bounds)
        self._pending_sum = 0.0

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Observe ``amount``; exemplars are not kept."""
        assert exemplar is None
        self._pending[bisect_left(self._upper_bounds, amount)] += 1
        self._pending_sum += amount

    def flush(self) -> None:
        """Write what was observed."""
        if not self._pending_sum:
            return
        pending, self._pending = self._pending, [0] * len(self._pending)
        total, self._pending_sum = self._pending_sum, 0.0
        for bucket, count in zip(self._buckets, pending, strict=True):
            if count:
                bucket.inc(count)
        self._sum.inc(total)
