"""``manual``: a routing key stays with the worker that it was first given.

The key is the header ``x-extproc-routing-key``. Up to two workers are remembered for each; the first of them that is a
candidate wins, so a session returns when its worker recovers. If none is, a new one is assigned and the oldest is
dropped. A request without a key is assigned a worker without being remembered. ``assignment_mode`` says how workers are
assigned: any, the one with the fewest requests, or the one that was given the fewest keys.

When to use it: sessions that must stay where their state is. State: a map shared by all processes, which survives the
death of any router; idle keys expire, and beyond ``max_entries`` the least recently used goes. Fall-backs: the other
remembered worker, then any. Source of the rule: the family of the Shepherd Model Gateway; there, the map is not
bounded.
"""

from collections import Counter
from typing import ClassVar

import numpy as np

from extproc.api.request import RoutingRequest
from extproc.fleet.candidates import Candidates
from extproc.index.sticky_map import Sticky, fingerprint
from extproc.policies.base import (
    ROUTING_KEY_HEADERS,
    Choice,
    Needs,
    PolicyContext,
    Ranking,
    Reason,
    drawn,
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
        self._rng = context.rng
        self._ranking = Ranking(context)
        self._mode = parameters.assignment_mode
        self._max_idle_secs = parameters.max_idle_secs
        self._max_endpoints = context.max_endpoints
        self._groups: list[Counter[int]] = []
        self._next_part = 0
        self._counted_at = -COUNT_EVERY_SECS

    def choose(self, request: RoutingRequest, candidates: Candidates) -> Choice:
        """Look the key up, or assign it."""
        key = header_of(request, ROUTING_KEY_HEADERS)
        if not key:
            return Choice(picked(candidates, self._assigned(candidates)), Reason.NO_KEY)
        key_hash = self._stickies.hash_of(key)
        now = int(self._clock())
        known = self._in_use(key_hash, now)
        workers = () if known is None else known.workers
        usable = [at for worker in workers if (at := candidates.position_of_fingerprint(worker)) is not None]
        if usable and known is not None:
            if known.last_used != now:
                self._stickies.touch(key_hash, now)
            return Choice(picked(candidates, self._with_others(usable, candidates)), Reason.STICKY)
        order = self._assigned(candidates)
        given = fingerprint(candidates.workers[order[0]].id)
        self._stickies.put(key_hash, (*workers, given)[-REMEMBERED_WORKERS:], now)
        if self._groups:
            self._groups[self._stickies.part_of(key_hash)][given] += 1
        return Choice(picked(candidates, order), Reason.STICKY_ASSIGNED)

    def _in_use(self, key_hash: int, now: int) -> Sticky | None:
        """Return where a key was sent, unless that is too long ago."""
        known = self._stickies.find(key_hash)
        return known if known is not None and now - known.last_used <= self._max_idle_secs else None

    def _with_others(self, usable: list[int], candidates: Candidates) -> list[int]:
        """Return the usable ones, and any others after them up to the length of a choice."""
        others = drawn(self._rng, len(candidates), self._max_endpoints)
        return [*usable, *[at for at in others if at not in usable]][: self._max_endpoints]

    def _assigned(self, candidates: Candidates) -> list[int]:
        if self._mode == "min_load":
            return self._ranking.lowest(self._loads.requests(candidates))
        if self._mode == "min_group":
            self._count()
            keys = [sum([part[worker] for part in self._groups]) for worker in candidates.fingerprints]
            return self._ranking.lowest(np.array(keys, dtype=np.float64))
        return drawn(self._rng, len(candidates), self._max_endpoints)

    def _count(self) -> None:
        """Count what others have assigned and what is not in use any more, one part of the map after the other."""
        now = self._clock()
        if now - self._counted_at < COUNT_EVERY_SECS:
            return
        self._counted_at = now
        if not self._groups:
            self._groups = [self._counted(part, int(now)) for part in range(self._stickies.parts)]
        else:
            self._groups[self._next_part] = self._counted(self._next_part, int(now))
            self._next_part = (self._next_part + 1) % self._stickies.parts

    def _counted(self, part: int, now: int) -> Counter[int]:
        return Counter(self._stickies.groups(part, now=now, max_idle_secs=self._max_idle_secs))
