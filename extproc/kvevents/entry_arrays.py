"""Entries as arrays that can be kept and read again: those that give way last, in their order.

::

    digest_sizes   for each entry 0 where the engine's hash is a number, else its bytes
    numbers        the hashes that are numbers
    digests        the bytes of the others, one after the other
    sizes, depths, near, far, own     as in ``entries.py``
    about          tokens of our blocks, root of the empty adapter and salt, group of caches plus 1 (0: none)

When GPU blocks were stored is not kept, as clocks differ.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from extproc.index.block_hash import Hashes
from extproc.kvevents.decode import MAX_DIGEST_BYTES
from extproc.kvevents.entries import FAR, NEAR, TIERS, Entries
from extproc.kvevents.events import EngineHash

_MOST = 1 << 31
"""Far more than there may be, and far from what an entry can count."""

Arrays = Mapping[str, npt.NDArray[np.generic]]

_TYPES: dict[str, type[np.unsignedinteger]] = {
    "digest_sizes": np.uint8,
    "numbers": np.uint64,
    "digests": np.uint8,
    "sizes": np.uint32,
    "depths": np.uint32,
    "near": np.uint32,
    "far": np.uint32,
    "own": np.uint64,
    "about": np.uint64,
}


def dump(entries: Entries, *, block_size: int, root: int, group: int | None) -> dict[str, npt.NDArray[np.generic]]:
    """Return what :func:`restore` needs."""
    order = entries.order()
    ats = np.array([at for _, at in order], dtype=np.int64)
    digests = [name if isinstance(name, bytes) else b"" for name, _ in order]
    sizes = _numbers(entries.sizes)[ats]
    firsts = np.repeat(ats - (np.cumsum(sizes, dtype=np.int64) - sizes), sizes)
    return {
        "digest_sizes": np.array([len(digest) for digest in digests], dtype=np.uint8),
        "numbers": np.array([name for name, _ in order if isinstance(name, int)], dtype=np.uint64),
        "digests": np.frombuffer(b"".join(digests), np.uint8),
        "sizes": sizes,
        "depths": _numbers(entries.depths)[ats],
        "near": _numbers(entries.copies[NEAR])[ats],
        "far": _numbers(entries.copies[FAR])[ats],
        "own": np.array(entries.own, dtype=np.uint64)[firsts + np.arange(len(firsts))],
        "about": np.array([block_size, root, 0 if group is None else group + 1], dtype=np.uint64),
    }


def restore(entries: Entries, arrays: Arrays, *, block_size: int, root: int) -> int | None:
    """Fill empty entries; return the group of caches. Raises ``ValueError``.

    Where there is less room than there was, those that are without a copy for longest are left out.
    """
    _check(arrays, block_size=block_size, root=root)
    names, about = _names(arrays), arrays["about"].tolist()
    sizes, depths, own = arrays["sizes"], arrays["depths"], arrays["own"]
    ends = np.cumsum(sizes.astype(np.uint64))
    copies = (arrays["near"].tolist(), arrays["far"].tolist())
    values: list[int] = own.tolist()
    for place, (name, size, depth, end) in enumerate(
        zip(names, sizes.tolist(), depths.tolist(), ends.tolist(), strict=True)
    ):
        at = entries.add(name, values[end - size : end], depth)
        if at < 0:
            continue
        for tier in TIERS:
            if number := copies[tier][place]:
                entries.copied(at, tier, np.inf)
                entries.copies[tier][at] = number
        entries.uncopied(at)
    return about[2] - 1 if about[2] else None


def _check(arrays: Arrays, *, block_size: int, root: int) -> None:
    for key, wanted in _TYPES.items():
        found = arrays.get(key)
        if not isinstance(found, np.ndarray) or found.dtype != wanted or found.ndim != 1:
            raise ValueError(f"{key}: no array of {wanted.__name__}")
    about = arrays["about"].tolist()
    if about[:2] != [block_size, root] or len(about) != 3:  # noqa: PLR2004 - as in the module's text
        raise ValueError("about: of other blocks or of another root")
    sizes, depths = arrays["sizes"], arrays["depths"]
    count = len(sizes)
    if any(len(arrays[key]) != count for key in ("digest_sizes", "depths", "near", "far")):
        raise ValueError("the arrays of entries differ in length")
    if int(sizes.astype(np.uint64).sum()) != len(arrays["own"]) or (depths < sizes).any():  # type: ignore[operator]
        raise ValueError("own: no such blocks")
    if any((arrays[key] > _MOST).any() for key in ("depths", "near", "far")):  # type: ignore[operator]
        raise ValueError("depths, near, far: too large")


def _names(arrays: Arrays) -> list[EngineHash]:
    lengths: list[int] = arrays["digest_sizes"].tolist()
    numbers, digests = iter(arrays["numbers"].tolist()), arrays["digests"].tobytes()
    if lengths.count(0) != len(arrays["numbers"]) or sum(lengths) != len(digests):
        raise ValueError("digest_sizes: not those of the numbers and digests")
    names: list[EngineHash] = []
    at = 0
    for length in lengths:
        if length > MAX_DIGEST_BYTES:
            raise ValueError("digest_sizes: a digest is too long")
        names.append(digests[at : at + length] if length else next(numbers))
        at += length
    if len(set(names)) != len(names):
        raise ValueError("a name comes twice")
    return names


def _numbers(numbers: object) -> Hashes:
    return np.array(numbers, dtype=np.uint32)
