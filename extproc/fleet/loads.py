"""How loaded the candidates are, from what all processes count and what the engines report."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from extproc.fleet.candidates import Candidates
from extproc.shm.layout import Quantity
from extproc.shm.worker_table import Engine, Outcome, WorkerTable

Floats = npt.NDArray[np.float64]

FIRST_PREFILL_RATE = 8_000.0
"""Prompt tokens a second that a worker is taken to compute until more is known of it."""
FIRST_REQUEST_SECS = 0.002
"""What each request already there is taken to add to the time to first byte until more is known."""
KV_PRESSURE_SECS = 0.15
"""Weight of a full KV cache in the expected wait, as `least_load` of the Shepherd Model Gateway has it."""
MAX_KV_USAGE = 0.999


class Load(NamedTuple):
    """One number a candidate in each array, in the order of the candidates.

    ``requests`` are in flight, those of other gateways included where the engine has told of them lately;
    ``prefill_tokens`` are uncached prompt tokens on their way or in work there, ``sent_tokens`` prompt tokens ever
    sent. ``kv_usage`` is the share of KV blocks that running requests use (0 where unknown or stale),
    ``capacity_tokens`` the size of the KV cache in tokens (0: unknown), ``recorded_blocks`` what was sent there since
    it was last empty. ``prefill_rate`` is in tokens a second, ``request_secs`` the time that each request already there
    adds.
    """

    requests: Floats
    prefill_tokens: Floats
    sent_tokens: Floats
    kv_usage: Floats
    capacity_tokens: Floats
    recorded_blocks: Floats
    prefill_rate: Floats
    request_secs: Floats

    def expected_wait_secs(self) -> Floats:
        """Return the time until a worker would begin with a prompt that is sent now.

        The uncached tokens before it at the rate at which they are computed, what running requests add, and a term
        that grows without bound as the KV cache fills: a full one preempts.
        """
        usage = self.kv_usage
        wait = self.prefill_tokens / self.prefill_rate + self.requests * self.request_secs
        return wait + KV_PRESSURE_SECS * usage / (1.0 - usage)


class FleetLoads:
    """Reads the worker table for policies. ``clock`` is that of the table; older engine loads are not used."""

    def __init__(self, *, table: WorkerTable, clock: Callable[[], float], stale_secs: float) -> None:
        self._table = table
        self._clock = clock
        self._stale_secs = stale_secs

    def requests(self, candidates: Candidates) -> Floats:
        """Return the requests in flight to each candidate, for policies that look at nothing else."""
        table = self._table
        own = table.sums(candidates.high)[Quantity.REQUESTS, candidates.slots]
        total: Floats = own.astype(np.float64)
        # Mostly there is no other gateway, and the age of a load that is not used does not matter.
        if np.count_nonzero(table.engines[candidates.slots, Engine.ELSEWHERE]):
            engines = table.engines[candidates.slots].T
            total += engines[Engine.ELSEWHERE] * self._fresh(engines)
        return total

    def sent_tokens(self, candidates: Candidates) -> Floats:
        """Return the prompt tokens ever sent to each candidate."""
        sent: Floats = self._table.sums(candidates.high)[Quantity.SENT_TOKENS, candidates.slots].astype(np.float64)
        return sent

    def read(self, candidates: Candidates) -> Load:
        """Return everything that is known of the candidates' load."""
        slots = candidates.slots
        sums = self._table.sums(candidates.high)[:, slots].astype(np.float64)
        engines = self._table.engines[slots].T
        outcomes = self._table.outcomes[slots].T
        fresh = self._fresh(engines)
        return Load(
            requests=sums[Quantity.REQUESTS] + engines[Engine.ELSEWHERE] * fresh,
            prefill_tokens=sums[Quantity.PREFILL_TOKENS],
            sent_tokens=sums[Quantity.SENT_TOKENS],
            kv_usage=np.minimum(engines[Engine.KV_USAGE] * fresh, MAX_KV_USAGE),
            capacity_tokens=engines[Engine.NUM_BLOCKS] * engines[Engine.BLOCK_SIZE],
            recorded_blocks=sums[Quantity.RECORDED_BLOCKS] - engines[Engine.RECORDED_BEFORE],
            prefill_rate=_known(engines[Engine.PREFILL_RATE], outcomes[Outcome.PREFILL_RATE], FIRST_PREFILL_RATE),
            request_secs=_known(outcomes[Outcome.REQUEST_SECS], None, FIRST_REQUEST_SECS),
        )

    def _fresh(self, engines: Floats) -> npt.NDArray[np.bool_]:
        fresh: npt.NDArray[np.bool_] = self._clock() - engines[Engine.SCRAPED_AT] <= self._stale_secs
        return fresh


def _known(best: Floats, second: Floats | None, otherwise: float) -> Floats:
    """Return the best number that is known (not 0) of each worker."""
    rest: Floats | float = otherwise if second is None else np.where(second > 0, second, otherwise)
    return np.where(best > 0, best, rest)
