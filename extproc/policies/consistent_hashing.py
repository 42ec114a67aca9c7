"""``consistent_hashing``: a request's key decides, and removing one worker moves only that worker's keys.

In this order: the worker that the request names (``x-extproc-target-worker``, by id); the ring worker of its routing
key (``x-extproc-routing-key``); that of the first configured header it has; without any key the one with the least
expected wait. A ring worker with more than ``load_factor`` times the mean of requests is passed over for the next on
the ring, so one hot key does not drown a worker.

When to use it: sessions with a key, and no wish for shared state. State: none; the ring follows from the workers' ids.
Fall-backs: the next on the ring. Source of the rule: the family of the Shepherd Model Gateway, and "Consistent Hashing
with Bounded Loads" (Mirrokni, Thorup, Zadimoghaddam, 2016) for the bound. Credentials are never hashed.
"""

import math
from itertools import islice
from typing import ClassVar

import xxhash

from extproc.api.request import RoutingRequest
from extproc.fleet.candidates import Candidates
from extproc.policies.base import (
    ROUTING_KEY_HEADERS,
    TARGET_WORKER_HEADERS,
    Choice,
    Needs,
    PolicyContext,
    Ranking,
    Reason,
    header_of,
    picked,
)
from extproc.policies.rings import Rings


class ConsistentHashing:
    """The ring worker of a key, unless it has too much to do."""

    name: ClassVar[str] = "consistent_hashing"
    needs: ClassVar[Needs] = Needs.HEADERS

    def __init__(self, context: PolicyContext) -> None:
        parameters = context.parameters.consistent_hashing
        self._loads = context.loads
        self._ranking = Ranking(context)
        self._rings = Rings(virtual_nodes=parameters.virtual_nodes)
        self._load_factor = parameters.load_factor
        self._key_headers = (*ROUTING_KEY_HEADERS, *parameters.header_names)
        self._max_endpoints = context.max_endpoints

    def choose(self, request: RoutingRequest, candidates: Candidates) -> Choice:
        """Look for a key, and walk the ring from it."""
        named = header_of(request, TARGET_WORKER_HEADERS)
        target = candidates.position_of(named) if named else None
        key = header_of(request, self._key_headers) or named
        if target is not None:
            others = [at for at in self._walk(key, candidates, self._max_endpoints) if at != target]
            return Choice(picked(candidates, [target, *others[: self._max_endpoints - 1]]), Reason.TARGET_WORKER)
        if not key:
            return self._ranking.choice(candidates, self._loads.read(candidates).expected_wait_secs(), Reason.NO_KEY)
        order = self._walk(key, candidates, self._max_endpoints)
        if not self._load_factor:
            return Choice(picked(candidates, order), Reason.RING)
        requests: list[float] = self._loads.requests(candidates).tolist()
        most = math.ceil(self._load_factor * (sum(requests) + 1) / len(candidates))
        if requests[order[0]] < most:
            return Choice(picked(candidates, order), Reason.RING)
        return self._pass_over(key, candidates, requests, most)

    def _pass_over(self, key: str, candidates: Candidates, requests: list[float], most: float) -> Choice:
        order = self._walk(key, candidates, len(candidates))
        # With a factor of at least 1 some worker has room: not all are above the mean.
        start = next(at for at, position in enumerate(order) if requests[position] < most)
        order = [*order[start:], *order[:start]]
        return Choice(picked(candidates, order[: self._max_endpoints]), Reason.RING_NEXT)

    def _walk(self, key: str, candidates: Candidates, most: int) -> list[int]:
        place = xxhash.xxh3_64_intdigest(key.encode())
        return list(islice(self._rings.ring(candidates).walk(place), most))
