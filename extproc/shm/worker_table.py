"""The workers as all processes see them in numbers, by the worker's slot.

Who a worker is (id, address, models, state, health, adapters) stands in the fleet document (``fleet.py``), which also
gives it its slot. Here is what changes with every request and every scrape::

    load columns    process 0    REQUESTS         [ slot 0 | slot 1 | ... | slot 1023 ]
                                 DECODE_TOKENS    [ ... ]
                                 SENT_TOKENS      [ ... ]
                                 RECORDED_BLOCKS  [ ... ]
                    process 1    REQUESTS ...
    engine rows     slot 0       [ scraped_at | running | waiting | ... 16 numbers ]
    outcome rows    slot 0       [ failures | open_until | ... 16 numbers ]

* **Load columns** (signed words). A process writes its own column and nobody else's, so nothing is lost without a lock.
  Everybody reads, by summing over processes. A torn read: every number is read whole, but they are read one after the
  other, so a sum may be a request old by the time it is used. When a process dies the supervisor clears what it had in
  flight before the slot is used again; what only grows stays, so that no sum ever falls.
* **Engine rows** (floats). Written by the observer alone: what the worker's ``/metrics`` said last, and rates learned
  from it. ``scraped_at`` is written last, but a reader may see numbers of two scrapes together; each is true by itself.
* **Outcome rows** (floats). Written by whichever router sees an answer or its absence: the breaker, and what answers
  tell of the worker's speed; and by whichever sends a request: how long the worker is busy with prompts. Two routers
  that write at the same moment may lose one of two updates: a failure is counted once instead of twice, an average
  moves one step instead of two, one prompt of two is not queued. No decision's correctness depends on it.

Times are seconds of ``time.monotonic``, the same clock in all processes of a machine.
"""

from enum import IntEnum
from time import monotonic_ns
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from extproc.shm.layout import (
    ENGINE_ROW_NUMBERS,
    ENGINE_ROWS_BYTES,
    ENGINE_ROWS_OFFSET,
    HEADER_BYTES,
    HEADER_OFFSET,
    LOAD_COLUMNS_BYTES,
    LOAD_COLUMNS_OFFSET,
    MAX_PROCESSES,
    MAX_WORKERS,
    OUTCOME_ROW_NUMBERS,
    OUTCOME_ROWS_BYTES,
    OUTCOME_ROWS_OFFSET,
    WORD_BYTES,
    Quantity,
)
from extproc.shm.segment import BREAKERS_WORD, COLUMNS_WORD, Segment

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_COLUMN_WORDS = len(Quantity) * MAX_WORKERS
_IN_FLIGHT_QUANTITIES = 2
_IN_FLIGHT_BYTES = _IN_FLIGHT_QUANTITIES * MAX_WORKERS * WORD_BYTES
_NO_FLIGHTS = bytes(_IN_FLIGHT_BYTES)
assert Quantity.DECODE_TOKENS < _IN_FLIGHT_QUANTITIES <= Quantity.SENT_TOKENS, "what is in flight is cleared as one"


class Engine(IntEnum):
    """The numbers of an engine row; 0 where a worker does not tell."""

    SCRAPED_AT = 0
    RUNNING = 1
    WAITING = 2
    KV_USAGE = 3
    """Share of the KV blocks that running requests use, 0 to 1."""
    NUM_BLOCKS = 4
    BLOCK_SIZE = 5
    PREFIX_QUERIES = 6
    """Tokens looked up in the engine's prefix cache since it started, and those found there."""
    PREFIX_HITS = 7
    PREFILL_RATE = 8
    """Prompt tokens computed a second, learned from its counters."""
    DECODE_STEP_SECS = 9
    RECORDED_BEFORE = 10
    """What ``RECORDED_BLOCKS`` was when the worker's cache was last known to be empty."""
    ELSEWHERE = 11
    """Requests running or waiting there that are not ours."""
    SEATS = 12
    """How many requests it runs at once, as seen when others had to wait for it; 0 while that was never seen."""
    CACHED_SINCE = 13
    """It has computed as much as its cache holds since then, so what it was not sent again is gone; 0: not known."""
    TRUST = 14
    """How well its cache is known: :class:`Trust`."""
    HALF_LIFE_SECS = 15
    """After how long what was sent there counts half, where it does not say what it holds; 0: never."""


class Trust(IntEnum):
    """How well the cache of a worker is known."""

    UNKNOWN = 0
    """Nothing was sent there yet, or nobody keeps track."""
    APPROXIMATE = 1
    """By what was sent there."""
    PRECISE = 2
    """By what its engine says of every block."""


class Outcome(IntEnum):
    """The numbers of an outcome row."""

    FAILURES = 0
    """Failures in a row."""
    OPEN_UNTIL = 1
    """When the open breaker may be tried; 0 while it is closed."""
    OPENED = 2
    """How often in a row it has opened."""
    PROBED_AT = 3
    """When a request was last sent to try it; 0 when none is under way."""
    SEAT_SECS = 4
    """How often one of its seats becomes free when all are taken: the time between two answers; learned."""
    PREFILL_RATE = 5
    """Work tokens (:mod:`extproc.fleet.prefill`) a second, learned from answers."""
    LONE_SECS = 6
    """Time to the first byte of a short prompt at a worker that has nothing else to do; learned."""
    ANSWER_SECS = 7
    """Time from the first byte of an answer to its end; learned."""
    PREFILL_STRETCH = 8
    """Work tokens for each prompt token to compute, on the mean of what was sent there; 0: not known, taken for 1."""
    BUSY_UNTIL = 9
    """Until when it is expected to compute prompts that were sent to it; past or 0: it has none."""
    PRECISION = 10
    """How well predictions of cached tokens agree with what it reports, on the mean; 0: not known. The observer may
    set it and the number of samples back to 0."""
    PRECISION_SAMPLES = 11
    """Answers compared for it."""


class LoadColumn:
    """The load that one process has put on the workers, written by that process."""

    __slots__ = ("_numbers",)

    def __init__(self, numbers: memoryview) -> None:
        self._numbers = numbers

    def add(self, slot: int, *, requests: int = 0, decode_tokens: int = 0) -> None:
        """Count what is in flight up or down.

        A number stops at zero: one release too many would otherwise make a worker look idle that is not.
        """
        numbers = self._numbers
        for place, change in ((slot, requests), (MAX_WORKERS + slot, decode_tokens)):
            if change:
                numbers[place] = max(numbers[place] + change, 0)

    def note_sent(self, slot: int, *, tokens: int, blocks: int) -> None:
        """Count what is sent to a worker, and the blocks of it that are news there."""
        numbers = self._numbers
        numbers[2 * MAX_WORKERS + slot] += tokens
        numbers[3 * MAX_WORKERS + slot] += blocks

    def requests(self, slot: int) -> int:
        """What this process alone has in flight to a worker."""
        count: int = self._numbers[slot]
        return count


class WorkerRow(NamedTuple):
    """One worker's numbers at one moment, for people."""

    requests: int
    prefill_secs: float
    decode_tokens: int
    engine: dict[str, float]
    outcome: dict[str, float]


class WorkerTable:
    """All columns and rows; see the module for who may write what."""

    def __init__(self, segment: Segment) -> None:
        self._header = segment.words(HEADER_OFFSET, HEADER_BYTES)
        columns = segment.buffer[LOAD_COLUMNS_OFFSET : LOAD_COLUMNS_OFFSET + LOAD_COLUMNS_BYTES]
        self._column_bytes = columns
        self._column_words = columns.cast("q")
        self.columns: Ints = np.frombuffer(columns, np.int64).reshape(MAX_PROCESSES, len(Quantity), MAX_WORKERS)
        engines = segment.buffer[ENGINE_ROWS_OFFSET : ENGINE_ROWS_OFFSET + ENGINE_ROWS_BYTES]
        self.engine_numbers = engines.cast("d")
        """The engine rows one number after the other, for reading single ones."""
        self.engines: Floats = np.frombuffer(engines, np.float64).reshape(MAX_WORKERS, ENGINE_ROW_NUMBERS)
        outcomes = segment.buffer[OUTCOME_ROWS_OFFSET : OUTCOME_ROWS_OFFSET + OUTCOME_ROWS_BYTES]
        self.outcomes: Floats = np.frombuffer(outcomes, np.float64).reshape(MAX_WORKERS, OUTCOME_ROW_NUMBERS)
        self.outcome_numbers = outcomes.cast("d")
        """The outcome rows one number after the other, for reading and writing single ones."""

    def column(self, process_slot: int) -> LoadColumn:
        """Return the column of one process, counted by readers from here on."""
        if not 0 <= process_slot < MAX_PROCESSES:
            raise ValueError(f"no column for process slot {process_slot}")
        # The supervisor does this before it starts a process, so two processes never write it at once.
        if self._header[COLUMNS_WORD] <= process_slot:
            self._header[COLUMNS_WORD] = process_slot + 1
        start = process_slot * _COLUMN_WORDS
        return LoadColumn(self._column_words[start : start + _COLUMN_WORDS])

    def totals(self, quantity: Quantity, slots: int = MAX_WORKERS) -> Ints:
        """Return one quantity over all processes, for the first ``slots`` workers."""
        total: Ints = np.add.reduce(self.columns[: self._header[COLUMNS_WORD], quantity, :slots], axis=0)
        return total

    def requests_at(self, slot: int) -> int:
        """Return the requests in flight to one worker."""
        last = self._header[COLUMNS_WORD] * _COLUMN_WORDS
        return sum(self._column_words[slot:last:_COLUMN_WORDS].tolist()) if last else 0

    def sums(self, slots: int) -> Ints:
        """Return every quantity (rows, by :class:`Quantity`) for the first ``slots`` workers (columns)."""
        total: Ints = np.add.reduce(self.columns[: self._header[COLUMNS_WORD], :, :slots], axis=0)
        return total

    @property
    def breaker_changes(self) -> int:
        """Differs after every opening and closing of a breaker."""
        return self._header[BREAKERS_WORD]

    def note_breaker_change(self) -> None:
        """Tell all processes that a breaker has opened or closed."""
        # The time, and not a count: two processes that counted up at once could write the same number.
        self._header[BREAKERS_WORD] = monotonic_ns()

    def in_flight(self) -> list[int]:
        """Return requests in flight by worker slot."""
        in_flight: list[int] = self.totals(Quantity.REQUESTS).tolist()
        return in_flight

    def clear_column(self, process_slot: int) -> None:
        """Forget what a dead process had in flight. Only the supervisor calls this, after it has reaped the process."""
        start = process_slot * _COLUMN_WORDS * WORD_BYTES
        self._column_bytes[start : start + _IN_FLIGHT_BYTES] = _NO_FLIGHTS

    def reset_rows(self, slot: int) -> None:
        """Forget what is known of the worker in a slot: another one gets it. Only the observer calls this."""
        self.engines[slot] = 0.0
        self.outcomes[slot] = 0.0
        self.note_emptied(slot)
        self.note_breaker_change()

    def note_emptied(self, slot: int) -> None:
        """Note that a worker's cache is empty now. Only the observer calls this."""
        recorded = self.totals(Quantity.RECORDED_BLOCKS)[slot]
        self.engines[slot, Engine.RECORDED_BEFORE] = float(recorded)

    def row(self, slot: int, *, now: float) -> WorkerRow:
        """Return everything about one worker."""
        sums = self.sums(slot + 1)[:, slot].tolist()
        return WorkerRow(
            requests=sums[Quantity.REQUESTS],
            prefill_secs=max(float(self.outcomes[slot, Outcome.BUSY_UNTIL]) - now, 0.0),
            decode_tokens=sums[Quantity.DECODE_TOKENS],
            engine={number.name.lower(): float(self.engines[slot, number]) for number in Engine},
            outcome={number.name.lower(): float(self.outcomes[slot, number]) for number in Outcome},
        )
