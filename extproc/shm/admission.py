"""What is admitted, by model, over all processes.

::

    process slot 0    requests [ model 0 | model 1 | ... | model 127 ]    written by process 0 alone
                      tokens   [ ... ]
    process slot 1    ...

Model 0 stands for requests whose model is not configured; the others are configured models, in the order of their
list. A list that is reordered while requests run counts those under the new occupant of the place until they end.
Everybody reads, by summing; a sum may be a request old, so two processes may both take the last place there is. The
column of a dead process is cleared by the supervisor.
"""

import numpy as np

from extproc.shm.layout import (
    ADMISSION_BYTES,
    ADMISSION_MODELS,
    ADMISSION_OFFSET,
    ADMISSION_QUANTITIES,
    MAX_PROCESSES,
    WORD_BYTES,
)
from extproc.shm.segment import Segment

_COLUMN_WORDS = ADMISSION_QUANTITIES * ADMISSION_MODELS
_COLUMN_BYTES = _COLUMN_WORDS * WORD_BYTES


class AdmissionColumns:
    """All columns, and the one that this process writes."""

    __slots__ = ("_all", "_memory", "_own")

    def __init__(self, segment: Segment, *, process_slot: int) -> None:
        self._memory = segment.buffer[ADMISSION_OFFSET : ADMISSION_OFFSET + ADMISSION_BYTES]
        self._all = np.frombuffer(self._memory, np.int64).reshape(MAX_PROCESSES, ADMISSION_QUANTITIES, ADMISSION_MODELS)
        start = process_slot * _COLUMN_WORDS
        self._own = self._memory.cast("q")[start : start + _COLUMN_WORDS]

    def add(self, model: int, *, requests: int, tokens: int) -> None:
        """Count what is admitted up or down; numbers stop at zero."""
        own = self._own
        own[model] = max(own[model] + requests, 0)
        own[ADMISSION_MODELS + model] = max(own[ADMISSION_MODELS + model] + tokens, 0)

    def of_model(self, model: int) -> tuple[int, int]:
        """Return requests and tokens of one model that are admitted now."""
        requests, tokens = self._all[:, :, model].sum(axis=0).tolist()
        return requests, tokens

    def total(self) -> tuple[int, int]:
        """Return requests and tokens that are admitted now."""
        requests, tokens = self._all.sum(axis=(0, 2)).tolist()
        return requests, tokens

    def clear(self, process_slot: int) -> None:
        """Forget what a dead process had admitted. Only the supervisor calls this, after it has reaped the process."""
        self._memory[process_slot * _COLUMN_BYTES : (process_slot + 1) * _COLUMN_BYTES] = bytes(_COLUMN_BYTES)
