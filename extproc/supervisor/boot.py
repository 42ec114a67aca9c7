"""What the supervisor and a child agree on: the first line on the child's standard input, exit codes, deadlines.

The pipe stays open after that line. Its end tells the child that the supervisor is gone.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from extproc.config.handover import settings_from_json, settings_to_json
from extproc.config.settings import Settings
from extproc.shm.processes import Role

EXIT_CLEAN = 0
EXIT_FAULT = 1
EXIT_CANNOT_START = 3
"""Starting again would not help; the text for the operator is in the log."""

STOP_GRACE_SECS = 5.0
"""What a child may take beyond its drain timeout before it is killed: the transport's last second, and its own end."""


def process_name(role: Role, index: int) -> str:
    """Name a process for people: ``router-0``, ``observer``."""
    return f"router-{index}" if role is Role.ROUTER else role.name.lower()


@dataclass(frozen=True, kw_only=True, slots=True)
class ChildBoot:
    """Everything a child is told.

    ``entry`` is ``module:function``, called with this object; what it returns is the exit code. ``slot`` is the child's
    place in the shared memory and the name of its metric files. The descriptors are inherited under these numbers;
    ``shared_socket_fd`` is the listening socket of the shared address, None when there is none.
    """

    role: Role
    entry: str
    index: int
    slot: int
    segment_fd: int
    shared_socket_fd: int | None
    config_file: Path
    settings: Settings

    @property
    def name(self) -> str:
        """``router-0``, ``observer``."""
        return process_name(self.role, self.index)

    def to_line(self) -> bytes:
        """Return it as one line of JSON."""
        document: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        document["config_file"] = str(self.config_file)
        document["settings"] = settings_to_json(self.settings)
        return json.dumps(document).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        """Read what :meth:`to_line` returned. Raises ``ValueError`` or ``KeyError`` on anything else."""
        document = json.loads(line)
        return cls(
            role=Role(document["role"]),
            entry=document["entry"],
            index=document["index"],
            slot=document["slot"],
            segment_fd=document["segment_fd"],
            shared_socket_fd=document["shared_socket_fd"],
            config_file=Path(document["config_file"]),
            settings=settings_from_json(document["settings"]),
        )
