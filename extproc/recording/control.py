"""What is said over the admin port to begin and end a recording."""

from typing import Annotated

import msgspec

PATH = "/recording"
MAX_SECS = 86_400.0
"""The longest recording; the order ends by itself, whatever becomes of who has asked for it."""


MIN_BYTES = 10_000
"""The least bound on disk: some of it is kept for what each router writes in any case."""


class RecordingWanted(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /recording``. ``max_bytes`` may only lower the configured bound."""

    secs: Annotated[float, msgspec.Meta(gt=0, le=MAX_SECS)]
    max_bytes: Annotated[int, msgspec.Meta(ge=MIN_BYTES)] | None = None


class RecordingStatus(msgspec.Struct):
    """What ``/recording`` answers.

    ``directory`` is where routers write, empty where that is not allowed. ``recording`` is the one in force, or the
    last one that any router has not yet written in full, None when there is none. ``secs_left`` is until it ends by
    itself, 0 when it has ended. ``unwritten`` is how many routers still hold requests of it.
    """

    directory: str
    recording: str | None
    secs_left: float
    unwritten: int
