"""``manual``: a routing key stays with the worker that it was first given.

The key is the header ``x-extproc-routing-key``. Up to two workers are remembered for each; the first of them that is a
candidate wins, so a session returns when its worker recovers. If none is, a new one is assigned and the oldest is
dropped. A request without a key is assigned a worker without being remembered.

When to use it: sessions that must stay where their state is. State: a map shared by all processes, which survives the
death of any router; idle keys expire, and beyond ``max_entries`` the least recently used goes. Fall-backs: the other
remembered worker, then as a new key would be assigned. Source of the rule: the family of the Shepherd Model Gateway;
there, the map is not bounded.
"""

from typing import ClassVar

import numpy as np

from extproc.api.request import RoutingRequest
from extproc.fleet.candidates import Candidates
from extproc.fleet.worker import Worker
from extproc.index.sticky_map import fingerprint
from extproc.policies.base import (
    ROUTING_KEY_HEADERS,
    Choice,
    Floats,
    Needs,
    PolicyContext,
    Ranking,
    Reason,
    header_of,
    picked,
)

REMEMBERED_WORKERS = 2
COUNT_EVERY_SECS = 1.0


class Manual:
    """The worker that a key was given."""

    name: ClassVar[str] = "manual"
    needs: ClassVar[Needs] = Needs.HEADERS

    def __init__(self, context: PolicyContext) -> None:
        parameters = context.parameters.manual
        self._stickies = context.stickies
        self._loads = context.loads
        self._clock = context.clock
        self._ranking = Ranking(context)
        self._mode = parameters.assignment_mode
        self._max_idle_secs = parameters.max_idle_secs
        self._max_endpoints = context.max_endpoints
        self._groups: dict[int, int] = {}
        self._counted_at = -COUNT_EVERY_SECS

    def choose(self, request: RoutingRequest, candidates: Candidates) -> Choice:
        """Look the key up, or assign it."""
        key = header_of(request, ROUTING_KEY_HEADERS)
        if not key:
            return self._ranking.choice(candidates, self._costs(candidates), Reason.NO_KEY)
        key_hash = self._stickies.hash_of(key)
        now = int(self._clock())
        known = self._stickies.find(key_hash)
        workers = known.workers if known is not None and now - known.last_used <= self._max_idle_secs else ()
        usable = [at for worker in workers if (at := candidates.position_of_fingerprint(worker)) is not None]
        if usable:
            if known is not None and known.last_used != now:
                self._stickies.touch(key_hash, now)
            return Choice(self._with_others(usable, candidates), Reason.STICKY)
        order = self._ranking.lowest(self._costs(candidates))
        given = fingerprint(candidates.workers[order[0]].id)
        self._stickies.put(key_hash, (*workers, given)[-REMEMBERED_WORKERS:], now)
        self._groups[given] = self._groups.get(given, 0) + 1
        return Choice(picked(candidates, order), Reason.STICKY_ASSIGNED)

    def _with_others(self, usable: list[int], candidates: Candidates) -> tuple[Worker, ...]:
        wanted = min(self._max_endpoints, len(candidates))
        if len(usable) < wanted:
            others = self._ranking.lowest(np.zeros(len(candidates)))
            usable = usable + [at for at in others if at not in usable]
        return picked(candidates, usable[:wanted])

    def _costs(self, candidates: Candidates) -> Floats:
        if self._mode == "min_load":
            return self._loads.requests(candidates)
        if self._mode == "min_group":
            now = self._clock()
            if now - self._counted_at >= COUNT_EVERY_SECS:
                self._groups = self._stickies.groups(now=int(now), max_idle_secs=self._max_idle_secs)
                self._counted_at = now
            counts = [self._groups.get(fingerprint(worker.id), 0) for worker in candidates.workers]
            return np.array(counts, dtype=np.float64)
        return np.zeros(len(candidates))
