"""Hash rings of candidates, remembered: what the policies with a ring share."""

import numpy as np
import numpy.typing as npt

from extproc.fleet.candidates import Candidates, PerCandidates
from extproc.index.hash_ring import HashRing, points_of

MAX_REMEMBERED = 4096
MAX_RINGS = 64
"""At ten bytes a point: 100 MB if there are so many sets of 1,024 workers with 150 points each."""


class Rings:
    """Makes the ring of a set of candidates once, and each worker's points once."""

    def __init__(self, *, virtual_nodes: int) -> None:
        self._virtual_nodes = virtual_nodes
        self._rings: PerCandidates[HashRing] = PerCandidates(MAX_RINGS)
        self._points: dict[str, npt.NDArray[np.uint64]] = {}

    def ring(self, candidates: Candidates) -> HashRing:
        """Return the ring; positions on it are positions among the candidates."""
        known = self._rings.get(candidates)
        if known is not None:
            return known
        names = [worker.id for worker in candidates.workers]
        return self._rings.keep(candidates, HashRing(names, [self._points_of(name) for name in names]))

    def _points_of(self, name: str) -> npt.NDArray[np.uint64]:
        points = self._points.get(name)
        if points is None:
            if len(self._points) >= MAX_REMEMBERED:
                self._points.clear()
            points = self._points[name] = points_of(name, self._virtual_nodes)
        return points
