"""Puts what changed at engines into the prefix index, that of many engines at once."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from extproc.index.block_hash import Hashes
from extproc.index.prefix_index import PrefixIndex, Tier
from extproc.kvevents.engine_blocks import Changes


def apply_changes(prefixes: PrefixIndex, changed: Sequence[tuple[int, Changes]]) -> None:
    """Put into the index what changed at some workers, each named by its slot."""
    if not changed:
        return
    for slot, changes in changed:
        if changes.cleared:
            prefixes.clear_held(slot)
    slots = [slot for slot, _ in changed]
    for tier in Tier:
        hashes, holders = _joined([changes.lost[tier] for _, changes in changed], slots)
        if len(hashes):
            prefixes.release(hashes, holders, tier=tier)
        hashes, holders = _joined([changes.gained[tier] for _, changes in changed], slots)
        if len(hashes):
            prefixes.hold(hashes, holders, tier=tier)


def _joined(parts: list[Hashes], slots: list[int]) -> tuple[Hashes, npt.NDArray[np.int64]]:
    return np.concatenate(parts), np.repeat(np.array(slots, np.int64), [len(part) for part in parts])
