"""How loaded the candidates are, from what all processes count and what the engines report."""

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from extproc.fleet.candidates import Candidates, PerCandidates
from extproc.fleet.prefill import work_tokens
from extproc.shm.layout import ENGINE_ROW_NUMBERS, MAX_WORKERS, OUTCOME_ROW_NUMBERS, Quantity
from extproc.shm.worker_table import Engine, Outcome, WorkerTable

Floats = npt.NDArray[np.float64]
N = TypeVar("N", float, Floats)

FIRST_PREFILL_RATE = 8_000.0
"""Work tokens a second that a worker is taken to compute until more is known of any."""
REQUEST_SECS = 0.004
"""What each request in flight is taken to add. Measured on vLLM, one more makes every step some 30 µs longer, which is
8 ms for an answer of 256 tokens; half of that, as the first token counts most here."""
FIRST_SEAT_SECS = 0.01
"""How often a seat of a full engine is taken to become free until more is known."""
KV_PRESSURE_SECS = 0.15
"""Weight of a full KV cache in the expected wait, as `least_load` of the Shepherd Model Gateway has it."""
MAX_KV_USAGE = 0.999

REREAD_SECS = 0.1
"""How old the learned speeds may be; they change slowly, and weighing them takes longer than all else here."""
RATES_LAST_SECS = 10.0
"""How long the rate that a worker was seen with stands for what is sent to it."""
MAX_CANDIDATE_SETS = 64
ALIKE, APART = 2.0, 3.0
"""A worker's speed that differs from the middling one by fewer times than the first is taken for noise, from the second
on for its own; in between, in part."""


class Load(msgspec.Struct, Generic[N]):
    """The load of one worker, or of all candidates: then an array each, in the order of the candidates.

    ``requests`` are in flight, those of other gateways included where the engine tells of them; ``busy_secs`` is how
    long it will compute the prompts that were sent to it. ``kv_usage`` is the share of KV blocks that running requests
    use, and ``told`` 1 where its engine told so lately; else both are 0. ``queue_secs`` is the time until one of its
    seats is free, as far as the engine is known to have no more, and ``prefill_rate`` is in work tokens a second.
    """

    requests: N
    busy_secs: N
    kv_usage: N
    told: N
    queue_secs: N
    prefill_rate: N

    def expected_wait_secs(self) -> N:
        """Return the time until a worker would begin with a prompt that is sent now.

        The prompts before it, the queue for a seat, a little for every request, and a term that grows without bound as
        the KV cache fills: a full one preempts.
        """
        usage = self.kv_usage
        wait = self.busy_secs + self.queue_secs + self.requests * REQUEST_SECS
        return wait + KV_PRESSURE_SECS * usage / (1.0 - usage)


class CacheRoom(NamedTuple):
    """How full the prefix caches of the candidates' engines are.

    ``capacity_tokens`` is their size (0: unknown), ``recorded_blocks`` what was sent there since they were last empty.
    """

    capacity_tokens: Floats
    recorded_blocks: Floats


class _Speeds(NamedTuple):
    """What was learned of each candidate, evened out."""

    until: float
    prefill_rate: Floats
    seat_secs: Floats
    seats: Floats
    any_seats: bool
    no_queues: Floats


class FleetLoads:
    """Reads the worker table for policies, and knows what the work of a prompt takes.

    ``clock`` is that of the table; engine loads older than ``stale_secs`` are not used. ``attention_tokens`` is the
    context at which a prompt token is twice the work.
    """

    def __init__(
        self, *, table: WorkerTable, clock: Callable[[], float], stale_secs: float, attention_tokens: float
    ) -> None:
        self._table = table
        self._clock = clock
        self._stale_secs = stale_secs
        self._attention_tokens = attention_tokens
        self._speeds: PerCandidates[_Speeds] = PerCandidates(MAX_CANDIDATE_SETS)
        self._busy_until = table.outcomes[:, Outcome.BUSY_UNTIL]
        self._rates = np.zeros(MAX_WORKERS)
        self._rates_until = np.zeros(MAX_WORKERS)
        # Single numbers are read several times faster so.
        self._rate_numbers, self._rate_untils = self._rates.data, self._rates_until.data

    def requests(self, candidates: Candidates) -> Floats:
        """Return the requests in flight to each candidate, for policies that look at nothing else."""
        own = self._table.totals(Quantity.REQUESTS, candidates.high).take(candidates.slots).astype(np.float64)
        engines = self._table.engines.take(candidates.slots, axis=0).T
        # Mostly there is no other gateway, and the age of a load that is not used does not matter.
        if np.count_nonzero(engines[Engine.ELSEWHERE]):
            own += engines[Engine.ELSEWHERE] * self._fresh(engines[Engine.SCRAPED_AT], self._clock())
        return own

    def sent_tokens(self, candidates: Candidates) -> Floats:
        """Return the prompt tokens ever sent to each candidate."""
        sent = self._table.totals(Quantity.SENT_TOKENS, candidates.high).take(candidates.slots)
        return sent.astype(np.float64)

    def read(self, candidates: Candidates) -> Load[Floats]:
        """Return the load of all candidates."""
        slots = candidates.slots
        own = self._table.totals(Quantity.REQUESTS, candidates.high).take(slots)
        engines = self._table.engines.take(slots, axis=0).T
        now = self._clock()
        told = self._fresh(engines[Engine.SCRAPED_AT], now).astype(np.float64)
        speeds = self._speeds_of(candidates, now)
        requests = own + engines[Engine.ELSEWHERE] * told
        queue_secs = speeds.no_queues
        if speeds.any_seats:
            seats = np.maximum(speeds.seats, engines[Engine.RUNNING])
            queue_secs = np.maximum(requests + 1 - seats, 0.0) * speeds.seat_secs
        return Load(
            requests=requests,
            busy_secs=np.maximum(self._busy_until[slots] - now, 0.0),
            kv_usage=np.minimum(engines[Engine.KV_USAGE] * told, MAX_KV_USAGE),
            told=told,
            queue_secs=queue_secs,
            prefill_rate=speeds.prefill_rate,
        )

    def read_one(self, candidates: Candidates, position: int) -> Load[float]:
        """Return the load of one candidate, which costs the same for any number of candidates."""
        table = self._table
        slot = candidates.workers[position].slot
        now = self._clock()
        numbers, row = table.engine_numbers, slot * ENGINE_ROW_NUMBERS
        told = float(now - numbers[row + Engine.SCRAPED_AT] <= self._stale_secs)
        speeds = self._speeds_of(candidates, now)
        requests = table.requests_at(slot) + numbers[row + Engine.ELSEWHERE] * told
        seats = max(float(speeds.seats[position]), numbers[row + Engine.RUNNING])
        return Load(
            requests=requests,
            busy_secs=max(table.outcome_numbers[slot * OUTCOME_ROW_NUMBERS + Outcome.BUSY_UNTIL] - now, 0.0),
            kv_usage=min(numbers[row + Engine.KV_USAGE] * told, MAX_KV_USAGE),
            told=told,
            queue_secs=max(requests + 1 - seats, 0.0) * float(speeds.seat_secs[position]),
            prefill_rate=float(speeds.prefill_rate[position]),
        )

    def work_tokens(self, new: N, cached: N) -> N:
        """Return the work of computing ``new`` prompt tokens after ``cached`` ones."""
        return work_tokens(new, cached, attention_tokens=self._attention_tokens)

    def prefill_secs(self, load: Load[N], new: N, cached: N) -> N:
        """Return how long workers of that load would compute ``new`` prompt tokens after ``cached`` ones."""
        return self.work_tokens(new, cached) / load.prefill_rate

    def prefill_rate_at(self, slot: int, *, now: float) -> float:
        """Return the rate of work that the last load of a worker had; 0 where none was read lately."""
        return self._rate_numbers[slot] if now < self._rate_untils[slot] else 0.0

    def room(self, candidates: Candidates) -> CacheRoom:
        """Return how full the candidates' caches are."""
        slots = candidates.slots
        engines = self._table.engines.take(slots, axis=0).T
        recorded = self._table.totals(Quantity.RECORDED_BLOCKS, candidates.high).take(slots)
        return CacheRoom(
            capacity_tokens=engines[Engine.NUM_BLOCKS] * engines[Engine.BLOCK_SIZE],
            recorded_blocks=recorded - engines[Engine.RECORDED_BEFORE],
        )

    def _fresh(self, scraped_at: Floats, now: float) -> npt.NDArray[np.bool_]:
        fresh: npt.NDArray[np.bool_] = now - scraped_at <= self._stale_secs
        return fresh

    def _speeds_of(self, candidates: Candidates, now: float) -> _Speeds:
        speeds = self._speeds.get(candidates)
        if speeds is not None and now < speeds.until:
            return speeds
        engines = self._table.engines.take(candidates.slots, axis=0).T
        outcomes = self._table.outcomes.take(candidates.slots, axis=0).T
        rates = evened(_prefill_rates(engines, outcomes), otherwise=FIRST_PREFILL_RATE, best=np.max)
        self._rates[candidates.slots] = rates
        self._rates_until[candidates.slots] = now + RATES_LAST_SECS
        return self._speeds.keep(
            candidates,
            _Speeds(
                until=now + REREAD_SECS,
                prefill_rate=rates,
                seat_secs=evened(outcomes[Outcome.SEAT_SECS], otherwise=FIRST_SEAT_SECS, best=np.min),
                seats=_seats(engines),
                any_seats=bool(engines[Engine.SEATS].any()),
                no_queues=np.zeros(len(candidates)),
            ),
        )


def _prefill_rates(engines: Floats, outcomes: Floats) -> Floats:
    """Return what is known of each worker's rate of work; 0 is nothing."""
    # What engines report is in tokens, whatever context these had.
    stretch = outcomes[Outcome.PREFILL_STRETCH]
    reported = engines[Engine.PREFILL_RATE] * np.where(stretch > 0, stretch, 1.0)
    learned = outcomes[Outcome.PREFILL_RATE]
    if reported.any():
        # Of an engine that will tell, what is guessed from whole answers is worth less than what others tell.
        learned = np.where(engines[Engine.SCRAPED_AT] > 0, 0.0, learned)
    rates: Floats = np.where(reported > 0, reported, learned)
    return rates


def _seats(engines: Floats) -> Floats:
    """Return how many requests each worker is taken to run at once.

    One that was never seen full has as many seats as the best of the others: else all would go there.
    """
    seats = engines[Engine.SEATS]
    most = float(seats.max(initial=0.0)) or np.inf
    taken: Floats = np.where(seats > 0, seats, most)
    return taken


def evened(numbers: Floats, *, otherwise: float, best: Callable[[Floats], float]) -> Floats:
    """Return what to take for a speed of each worker, from what was learned of each; 0 stands for nothing.

    Alike workers are taken for equal: numbers are learned from few answers, and those that happen to have the best one
    would get far more than their share. Workers that are ``APART`` times from the middling one have their own. Workers
    of which nothing is known are taken for the ``best``: a worker that looks slower than it is may never be asked, and
    so never be known; one that looks faster soon is.
    """
    is_known = numbers > 0
    known = numbers[is_known]
    if not len(known):
        return np.full(len(numbers), otherwise)
    middling = float(np.sort(known)[(len(known) - 1) // 2])
    apart = np.log(known / middling)
    own = np.clip((np.abs(apart) - np.log(ALIKE)) / (np.log(APART) - np.log(ALIKE)), 0.0, 1.0)
    known = middling * np.exp(own * apart)
    evened = np.full(len(numbers), best(known))
    evened[is_known] = known
    return evened
