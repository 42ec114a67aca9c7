"""Shared memory for tests that need no descriptor of it."""

from collections.abc import Mapping

from extproc.shm.layout import Part
from extproc.shm.segment import Segment


def mapped(parts: Mapping[Part, int] | None = None) -> Segment:
    """A fresh segment without a descriptor of its own: the memory lives as long as somebody looks at it."""
    segment = Segment.create(parts)
    segment.close()
    return segment
