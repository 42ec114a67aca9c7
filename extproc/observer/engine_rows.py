"""Writes what engines report into the worker table, and notes when one of them has lost its cache."""

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from extproc.config.model_list import names_of
from extproc.config.models import ModelSpec
from extproc.fleet.load.engine_load import EngineLoad
from extproc.fleet.load.rates import LearnedRates
from extproc.fleet.loads import FIRST_PREFILL_RATE
from extproc.fleet.worker import Worker, WorkerKey
from extproc.observer.turnover import Turnover
from extproc.shm.worker_table import Engine, Outcome, WorkerTable

logger = logging.getLogger(__name__)

QUEUE_SHARE = 0.25
"""Requests wait for a seat where more than this share of the running ones do: a few wait for the next step anyway."""
LOOKS_AT_OTHERS = 3
"""Readings in a row that must show requests which are not ours: an engine's numbers lag behind by a step."""


LEARNED = (Engine.PREFILL_RATE, Engine.DECODE_STEP_SECS, Engine.SEATS)
"""What is learned of an engine over time, and not read anew each time."""


class PrefixRecord(Protocol):
    """Where it is recorded who holds which prefix (:class:`extproc.index.prefix_index.PrefixIndex`)."""

    def clear_worker(self, slot: int) -> None:
        """Note that a worker holds nothing."""

    def clear_claims(self, slot: int) -> None:
        """Forget what a worker was sent."""


class EngineEvents(Protocol):
    """Who hears what engines say of their caches (:class:`extproc.observer.kv_events.KvEvents`)."""

    def restarted(self, worker: Worker) -> None:
        """An engine counts from zero again."""


class NoEvents:
    """Hears nothing."""

    def restarted(self, worker: Worker) -> None:
        """Do nothing."""


class _Known:
    """What is remembered of one worker between two readings."""

    def __init__(self) -> None:
        self.rates = LearnedRates()
        self.others: deque[float] = deque(maxlen=LOOKS_AT_OTHERS)
        self.counts_queries = False
        self.told_block_size = 0
        self.full_with = 0
        self.turnover = Turnover()
        self.first_rates: Mapping[str, float] = {}


class EngineRows:
    """The writer of the engine rows; runs in the observer alone.

    ``events`` is told of engines that were started anew. ``worker_of`` finds a worker as it was last published,
    ``models`` the configured models. ``clock`` is that of the table.
    """

    def __init__(
        self,
        *,
        table: WorkerTable,
        prefixes: PrefixRecord,
        events: EngineEvents,
        worker_of: Callable[[WorkerKey], Worker | None],
        models: Callable[[], Sequence[ModelSpec]],
        clock: Callable[[], float],
    ) -> None:
        self._table = table
        self._prefixes = prefixes
        self._events = events
        self._worker_of = worker_of
        self._models = models
        self._clock = clock
        self._known: dict[WorkerKey, _Known] = {}

    def take(self, key: WorkerKey, load: EngineLoad | None) -> None:
        """Take a reading, None when it failed."""
        worker = self._worker_of(key)
        if worker is None:
            return
        known = self._known.setdefault(key, _Known())
        row = self._table.engines[worker.slot]
        if load is None:
            # Its last state fades by its age; others' requests would stay for ever.
            row[Engine.ELSEWHERE] = 0.0
            known.others.clear()
            return
        now = self._clock()
        if known.rates.learn(load, now=now) == "restarted":
            known.turnover.clear()
            logger.info("Worker %s has been started anew: its cache is empty", worker.id)
            self.empty(worker.slot)
            self._events.restarted(worker)
        own = self._table.requests_at(worker.slot)
        known.others.append(max(0.0, load.running + load.waiting - own))
        known.counts_queries = load.prefix_queries is not None
        row[Engine.RUNNING] = load.running
        row[Engine.WAITING] = load.waiting
        row[Engine.KV_USAGE] = load.kv_usage
        row[Engine.NUM_BLOCKS] = load.num_gpu_blocks
        row[Engine.BLOCK_SIZE] = load.block_size
        row[Engine.PREFIX_QUERIES] = load.prefix_queries or 0.0
        row[Engine.PREFIX_HITS] = load.prefix_hits or 0.0
        rate = known.rates.prefill_tokens_per_sec or known.first_rates.get("prefill_rate", 0.0)
        if rate > FIRST_PREFILL_RATE and not row[Engine.PREFILL_RATE]:
            self._shorten_queue(worker.slot, FIRST_PREFILL_RATE / rate, now=now)
        row[Engine.PREFILL_RATE] = rate
        row[Engine.DECODE_STEP_SECS] = known.rates.decode_step_secs or known.first_rates.get("decode_step_secs", 0.0)
        row[Engine.ELSEWHERE] = min(known.others) if len(known.others) == LOOKS_AT_OTHERS else 0.0
        row[Engine.SEATS] = _seats(row[Engine.SEATS], load, known)
        row[Engine.CACHED_SINCE] = known.turnover.cached_since(load, now=now)
        row[Engine.SCRAPED_AT] = now
        self._compare_block_size(worker, known, load.block_size)

    def restore(self, worker: Worker, rates: Mapping[str, float]) -> None:
        """Begin with rates that an earlier service has learned, by the names of :class:`Engine`."""
        self._known.setdefault(worker.key, _Known()).first_rates = rates
        row = self._table.engines[worker.slot]
        for number in LEARNED:
            row[number] = rates.get(number.name.lower(), 0.0)

    def recovered(self, worker: Worker) -> None:
        """Take it that a worker which was unreachable comes back empty, unless its counters would tell."""
        known = self._known.get(worker.key)
        if known is None or not known.counts_queries:
            self.empty(worker.slot)

    def placed(self, worker: Worker) -> None:
        """Forget what is known of the slot that a new worker gets."""
        self._known.pop(worker.key, None)
        self._table.reset_rows(worker.slot)
        self._prefixes.clear_worker(worker.slot)

    def gone(self, worker: Worker) -> None:
        """Forget a worker."""
        self._known.pop(worker.key, None)
        self._prefixes.clear_worker(worker.slot)

    def empty(self, slot: int) -> None:
        """Note that a worker's cache is empty; what its events say of it, they take back themselves."""
        self._prefixes.clear_claims(slot)
        self._table.note_emptied(slot)

    def _shorten_queue(self, slot: int, factor: float, *, now: float) -> None:
        """Correct how long a worker is taken to be busy: that was foretold by a first guess of its rate."""
        row = self._table.outcomes[slot]
        row[Outcome.BUSY_UNTIL] = now + max(row[Outcome.BUSY_UNTIL] - now, 0.0) * factor

    def _compare_block_size(self, worker: Worker, known: _Known, block_size: int) -> None:
        if not block_size or known.told_block_size == block_size:
            return
        known.told_block_size = block_size
        for spec in self._models():
            serves = not worker.models or any(name in worker.models for name in names_of(spec))
            if serves and spec.block_size != block_size:
                logger.warning(
                    "Worker %s caches in blocks of %d tokens, but models.%s.block_size is %d: matches are rounded to "
                    "the latter",
                    worker.id,
                    block_size,
                    spec.name,
                    spec.block_size,
                )


def _seats(seats: float, load: EngineLoad, known: _Known) -> float:
    """Return how many requests an engine runs at once, from what was thought and a reading; 0 is not known."""
    full_with = load.running if load.waiting > QUEUE_SHARE * load.running else 0
    before, known.full_with = known.full_with, full_with
    # Requests that wait for a long prompt before theirs are let in one after the other, so the number would differ.
    if full_with and full_with == before:
        return float(full_with)
    # With more of them than seats they were no seats: something else was short then.
    return 0.0 if load.running > seats else seats
