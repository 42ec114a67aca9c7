"""What is known of engines, in a file, so that a service that starts anew begins with it.

::

    file        8 bytes "kvsnap" and the version, 8 bytes xxh3_64 of the rest, the rest in msgpack

It is written beside its name and moved there, so that it is whole or not there. One that is torn, of another version or
too old is not used, which is said in the log; nor is what it says of an engine that is not the one that was: see
``KvEvents.restore``. It holds hashes and numbers, and nothing of any prompt.
"""

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from extproc.fleet.worker import WorkerKey
from extproc.kvevents.sources import EventSource
from extproc.kvevents.stream import Position

logger = logging.getLogger(__name__)

MAGIC = b"kvsnap\x00\x01"
_HEAD_BYTES = len(MAGIC) + 8
MAX_BYTES = 4 << 30

Array = npt.NDArray[np.generic]


class Packed(msgspec.Struct, frozen=True):
    """An array of one dimension."""

    kind: str
    data: bytes


class KnownBlocks(msgspec.Struct, frozen=True):
    """The blocks of one engine after the batch at ``position``, as ``EngineBlocks.dump`` has them."""

    source: EventSource
    model: str
    position: Position
    arrays: dict[str, Packed]


class KnownWorker(msgspec.Struct, frozen=True):
    """One worker: its engine's blocks where they are known; else what it was sent, and how long ago, in seconds.

    ``engine`` and ``outcome`` are what was learned of its speed, by the names of the rows' numbers.
    """

    key: WorkerKey
    blocks: KnownBlocks | None
    claims: Packed
    ages: Packed
    engine: dict[str, float]
    outcome: dict[str, float]


class Snapshot(msgspec.Struct, frozen=True):
    """Everything, at ``written_at`` seconds since 1970."""

    written_at: float
    workers: list[KnownWorker]


def pack(array: Array) -> Packed:
    """Return an array in a form that can be written."""
    return Packed(array.dtype.str, array.tobytes())


def unpack(packed: Packed) -> Array:
    """Return the array again. Raises ``ValueError``."""
    try:
        kind = np.dtype(packed.kind)
    except TypeError:
        raise ValueError(f"no kind of array: {packed.kind[:20]!r}") from None
    if kind.hasobject or not kind.itemsize:
        raise ValueError(f"no array of numbers: {packed.kind[:20]!r}")
    return np.frombuffer(packed.data, kind)


def unpack_all(arrays: Mapping[str, Packed]) -> dict[str, Array]:
    """Return all of some arrays again. Raises ``ValueError``."""
    return {name: unpack(packed) for name, packed in arrays.items()}


def write(path: Path, snapshot: Snapshot) -> None:
    """Replace the file. Raises ``OSError``; the former one is then still there."""
    content = msgspec.msgpack.encode(snapshot)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(MAGIC)
            file.write(xxhash.xxh3_64_digest(content))
            file.write(content)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def read(path: Path, *, max_age_secs: float) -> Snapshot | None:
    """Return what the file holds, or None, with a word in the log, where there is none that can be used."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("it is too large")
        content = path.read_bytes()
        if content[: len(MAGIC)] != MAGIC:
            raise ValueError("it is none, or of another version")
        rest = content[_HEAD_BYTES:]
        if content[len(MAGIC) : _HEAD_BYTES] != xxhash.xxh3_64_digest(rest):
            raise ValueError("it is torn")
        snapshot = msgspec.msgpack.decode(rest, type=Snapshot)
        age_secs = time.time() - snapshot.written_at
        if not 0 <= age_secs <= max_age_secs:
            raise ValueError(f"it is {age_secs:.0f} s old")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        logger.warning("The snapshot %s is not used: %s", path, error)
        return None
    return snapshot
