"""The workers that a request may go to, in the form in which policies read them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from extproc.fleet.worker import Worker
from extproc.index.sticky_map import fingerprint

T = TypeVar("T")


class Candidates(Sequence[Worker]):
    """Workers sorted by id, each of which may serve the request.

    The same object for as long as the same workers may take a request, so what a policy works out for it (a ring, an
    array) can be remembered by its identity: see :class:`PerCandidates`. ``slots`` are the workers' places in the
    shared tables, ``high`` is one more than the largest.
    """

    __slots__ = ("_by_fingerprint", "_by_id", "high", "slots", "workers")

    def __init__(self, workers: tuple[Worker, ...]) -> None:
        self.workers = workers
        self.slots: npt.NDArray[np.int64] = np.array([worker.slot for worker in workers], dtype=np.int64)
        self.high = int(self.slots.max()) + 1 if workers else 0
        self._by_id: dict[str, int] | None = None
        self._by_fingerprint: dict[int, int] | None = None

    def __len__(self) -> int:
        return len(self.workers)

    def __getitem__(self, index):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN204 - as the tuple's own
        return self.workers[index]

    def __iter__(self) -> Iterator[Worker]:
        return iter(self.workers)

    def position_of(self, worker_id: str) -> int | None:
        """Return the position of a worker by its id, or None when it is no candidate."""
        if self._by_id is None:
            self._by_id = {worker.id: position for position, worker in enumerate(self.workers)}
        return self._by_id.get(worker_id)

    def position_of_fingerprint(self, print_: int) -> int | None:
        """Return the position of a worker by its fingerprint in the sticky map, or None when it is no candidate."""
        return self.fingerprints.get(print_)

    @property
    def fingerprints(self) -> Mapping[int, int]:
        """The positions of the workers by their fingerprints in the sticky map, in order."""
        if self._by_fingerprint is None:
            self._by_fingerprint = {fingerprint(worker.id): at for at, worker in enumerate(self.workers)}
        return self._by_fingerprint

    def only(self, positions: Sequence[int]) -> "Candidates":
        """Return those at some positions, in that order."""
        return Candidates(tuple([self.workers[position] for position in positions]))


class PerCandidates(Generic[T]):
    """Remembers something for each of the last few sets of candidates, by identity."""

    __slots__ = ("_kept", "_most")

    def __init__(self, most: int = 16) -> None:
        self._kept: dict[int, tuple[Candidates, T]] = {}
        self._most = most

    def get(self, candidates: Candidates) -> T | None:
        """Return what was kept for these, or None."""
        kept = self._kept.get(id(candidates))
        return None if kept is None else kept[1]

    def keep(self, candidates: Candidates, value: T) -> T:
        """Remember ``value``, and let go of what was kept longest ago when there is too much."""
        self._kept.pop(id(candidates), None)
        if len(self._kept) >= self._most:
            del self._kept[next(iter(self._kept))]
        # Holding the candidates keeps their identity from being given to others.
        self._kept[id(candidates)] = (candidates, value)
        return value
