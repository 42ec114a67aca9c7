"""Where children come from and where their remains go: rows, columns, descriptors, environment."""

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

from extproc.config.settings import Settings
from extproc.shm.admission import AdmissionColumns
from extproc.shm.layout import SUPERVISOR_SLOT
from extproc.shm.processes import ProcessTable, Role
from extproc.shm.segment import Segment
from extproc.shm.worker_table import WorkerTable
from extproc.supervisor.boot import ChildBoot
from extproc.supervisor.process import ChildProcess

logger = logging.getLogger(__name__)


class Nursery:
    """Spawns children into free slots of the shared memory, and clears the slots of dead ones."""

    def __init__(
        self,
        *,
        segment: Segment,
        entries: Mapping[Role, str],
        config_file: Path,
        metrics_directory: Path,
        shared_socket_fd: int | None,
    ) -> None:
        self._segment = segment
        self._table = ProcessTable(segment)
        self._workers = WorkerTable(segment)
        self._admission = AdmissionColumns(segment, process_slot=SUPERVISOR_SLOT)
        self._entries = entries
        self._config_file = config_file
        self._shared_socket_fd = shared_socket_fd
        self._environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(metrics_directory)}

    def spawn(self, *, role: Role, index: int, settings: Settings) -> ChildProcess | None:
        """Start a child, or return None while every slot is taken. Raises ``OSError`` when the system cannot.

        The column is cleared here too, so that nothing a slot's last owner left is ever counted.
        """
        row = self._table.claim(role=role, index=index, now_ns=time.monotonic_ns())
        if row is None:
            return None
        self._clear(row.slot)
        # Before the process is there, so that no two ever write how many columns are in use.
        self._workers.column(row.slot)
        boot = ChildBoot(
            role=role,
            entry=self._entries[role],
            index=index,
            slot=row.slot,
            segment_fd=self._segment.fd,
            shared_socket_fd=self._shared_socket_fd,
            config_file=self._config_file,
            settings=settings,
        )
        try:
            child = ChildProcess.spawn(boot=boot, row=row, environment=self._environment)
        except OSError:
            self._table.release(row.slot)
            raise
        logger.info("Started %s in slot %d", child.name, row.slot)
        return child

    def bury(self, child: ChildProcess) -> None:
        """Free the slot of a reaped child: what it had in flight is gone with it."""
        self._clear(child.row.slot)
        self._table.release(child.row.slot)

    def _clear(self, slot: int) -> None:
        self._workers.clear_column(slot)
        self._admission.clear(slot)
