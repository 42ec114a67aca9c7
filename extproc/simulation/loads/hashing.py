"""Chained hashes of the blocks of many prompts at once, from numbers that stand for the blocks."""

import numpy as np
import numpy.typing as npt

from extproc.simulation.loads.load import Blocks

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST_SHIFT, _FIRST_FACTOR = np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)
_SECOND_SHIFT, _SECOND_FACTOR = np.uint64(27), np.uint64(0x94D049BB133111EB)
_LAST_SHIFT = np.uint64(31)


def chain(ids: Blocks, ends: npt.NDArray[np.int64]) -> None:
    """Replace the numbers of every block by hashes of the prompt up to it, in place.

    The blocks of the first prompt end before ``ends[0]``, those of the next before ``ends[1]``, and so on; ``ids`` ends
    with the last one. The hash of a block is the sum of mixed numbers so far, modulo 2**64, where the place in the
    prompt is mixed in.
    """
    counts = np.diff(ends, prepend=0)
    begins = np.repeat(ends - counts, counts)
    places = (np.arange(len(ids), dtype=np.int64) - begins).astype(np.uint64)
    mix(ids)
    ids += places * _STEP
    mix(ids)
    before = ids[begins].copy()
    np.add.accumulate(ids, out=ids)
    ids -= ids[begins] - before


def mix(values: Blocks) -> None:
    """Spread every bit of each value over all of it, in place and without loss (splitmix64)."""
    values += _STEP
    values ^= values >> _FIRST_SHIFT
    values *= _FIRST_FACTOR
    values ^= values >> _SECOND_SHIFT
    values *= _SECOND_FACTOR
    values ^= values >> _LAST_SHIFT
