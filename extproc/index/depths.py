"""How deep into a prompt each worker of a group holds it, from the bits of the blocks that were found."""

import numpy as np
import numpy.typing as npt

from extproc.index.block_hash import Hashes

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

GROUP_WORKERS = 64


def deepest_blocks(workers: Hashes, blocks: Ints) -> tuple[Floats, Ints]:
    """Return how deep the last block of each worker of a group lies, from 1, 0 for none; and where in ``blocks``."""
    ends = _ends(workers)
    depths = blocks.take(ends) + 1.0
    bits = np.unpackbits(workers.take(ends).view(np.uint8), bitorder="little").reshape(-1, GROUP_WORKERS)
    held = bits * depths[:, None]
    deepest: Floats = held.max(axis=0)
    return deepest, ends.take(held.argmax(axis=0))


def _ends(workers: Hashes) -> Ints:
    """Return some positions in ``workers``, not many, each worker's last one among them."""
    # Neighbours are mostly held by the same workers: only the last block of each such run can be the deepest.
    last = np.empty(len(workers), dtype=np.bool_)
    np.not_equal(workers[1:], workers[:-1], out=last[:-1])
    last[-1] = True
    ends: Ints = last.nonzero()[0]
    if len(ends) <= GROUP_WORKERS:
        return ends
    from_the_deepest = ends[::-1]
    held = workers.take(from_the_deepest)
    held[1:] &= ~np.bitwise_or.accumulate(held)[:-1]
    some: Ints = from_the_deepest[held != 0]
    return some
