"""Batches that came live and wait for others to come before them.

A publisher's sequence and the times in its batches grow together. Where they do not, batches are of two incarnations
of it, and the newer ones are kept.
"""

from typing import NamedTuple


class Settled(NamedTuple):
    """What may be applied: ``run``, payloads with the time of each, in order.

    With ``restarted`` nothing may: the publisher has started again, and what waits is of its new incarnation. With
    ``stale`` batches were dropped whose time does not fit their place.
    """

    run: list[tuple[float, bytes]]
    restarted: bool = False
    stale: bool = False


class Waiting:
    """Batches by sequence, at most ``most`` of ``most_bytes``. A time that is not known is not a number."""

    def __init__(self, *, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._batches: dict[int, tuple[float, bytes]] = {}
        self._bytes = 0
        self._top = (-1, float("-inf"))

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def full(self) -> bool:
        """Whether there is more than may be."""
        return len(self._batches) > self._most or self._bytes > self._most_bytes

    @property
    def first(self) -> int | None:
        """The lowest sequence that waits."""
        return min(self._batches, default=None)

    def clear(self) -> int:
        """Drop everything; returns how much that was."""
        dropped = len(self._batches)
        self._batches.clear()
        self._bytes = 0
        self._top = (-1, float("-inf"))
        return dropped

    def add(self, sequence: int, seconds: float, payload: bytes) -> int:
        """Keep a batch; returns how many were dropped, itself perhaps, because they are of an older incarnation."""
        dropped = 0
        top, newest = self._top
        if sequence <= top or seconds < newest:
            if any(other <= sequence and at > seconds for other, (at, _) in self._batches.items()):
                return 1
            dropped = self._remove(
                [other for other, (at, _) in self._batches.items() if other >= sequence and at < seconds]
            )
            self._remove([sequence] if sequence in self._batches else [])
        self._batches[sequence] = (seconds, payload)
        self._bytes += len(payload)
        if sequence > self._top[0]:
            self._top = (sequence, seconds)
        return dropped

    def settle(self, expected: int, newest: float) -> Settled:
        """Take out what follows without a gap from ``expected`` on, after a batch of the time ``newest``."""
        before = [sequence for sequence in self._batches if sequence < expected]
        if any(self._batches[sequence][0] > newest for sequence in before):
            self._remove([sequence for sequence, (at, _) in self._batches.items() if not at > newest])
            return Settled([], restarted=True)
        self._remove(before)
        run: list[tuple[float, bytes]] = []
        while (found := self._batches.get(expected)) is not None and not found[0] < newest:
            run.append(found)
            self._remove([expected])
            newest = found[0]
            expected += 1
        stale = self._remove([sequence for sequence, (at, _) in self._batches.items() if at < newest])
        return Settled(run, stale=stale > 0)

    def _remove(self, sequences: list[int]) -> int:
        for sequence in sequences:
            self._bytes -= len(self._batches.pop(sequence)[1])
        if self._top[0] not in self._batches:
            top = max(self._batches, default=-1)
            self._top = (top, self._batches[top][0] if self._batches else float("-inf"))
        return len(sequences)
