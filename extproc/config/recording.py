"""Recordings of live traffic."""

import dataclasses

from extproc.config.server import MIB
from extproc.config.setting import setting


@dataclasses.dataclass(frozen=True, slots=True)
class RecordingSettings:
    """Settings of what `extproc record` may let routers write down."""

    directory: str = setting(
        "",
        "Existing directory in which routers write while traffic is recorded, for the service's user alone. Empty: "
        "traffic cannot be recorded.",
    )
    max_bytes: int = setting(
        64 * MIB,
        "Most that recordings may take in that directory, all routers together; requests beyond it are counted only.",
        unit="bytes",
        low=MIB,
        high=1 << 40,
    )
