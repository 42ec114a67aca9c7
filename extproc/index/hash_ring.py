"""A ring of hashes: keys go to the worker whose point comes next.

Each worker has ``virtual_nodes`` points on the ring, from its id alone, so adding or removing a worker moves only the
keys between its points and those before them. The ring is immutable; a look-up is one binary search.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import xxhash

_FULL_TURN = 1 << 64


def points_of(name: str, virtual_nodes: int) -> npt.NDArray[np.uint64]:
    """Return a worker's points, unsorted."""
    # One hash each: a point must not depend on how many there are, or changing their number would move every key.
    return np.array(
        [xxhash.xxh3_64_intdigest(f"{name}#{node}".encode()) for node in range(virtual_nodes)], dtype=np.uint64
    )


class HashRing:
    """The ring of the workers called ``names``; positions refer to that list.

    ``points`` are those of each name, see :func:`points_of`; remember them, as they are the costly part.
    """

    def __init__(self, names: Sequence[str], points: Sequence[npt.NDArray[np.uint64]]) -> None:
        self._size = len(names)
        everyone = np.concatenate(points) if points else np.empty(0, dtype=np.uint64)
        owners = np.repeat(np.arange(len(names), dtype=np.uint16), [len(own) for own in points])
        order = np.argsort(everyone, kind="stable")
        # Views of machine words: single ones are read several times faster than from an array, in a tenth of a list's
        # memory.
        self._points = everyone[order].data
        self._owners = owners[order].data

    def walk(self, key: int) -> Iterator[int]:
        """Yield every position once, in the order in which their points follow the key's place on the ring."""
        owners = self._owners
        start = bisect_left(self._points, key % _FULL_TURN)
        seen: set[int] = set()
        for stretch in (owners[start:], owners[:start]):
            for owner in stretch:
                if owner not in seen:
                    seen.add(owner)
                    yield owner
                    if len(seen) == self._size:
                        return
