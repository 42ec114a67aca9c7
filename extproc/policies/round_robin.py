"""``round_robin``: the candidates in turn, by one counter that all router processes share.

When to use it: requests of similar cost and no benefit from prefix caches. State: a counter with one cell a process,
summed on reading; two processes deciding at the same moment may take the same turn, which evens out over time.
Fall-backs: the next candidates in order of id. Source of the rule: the family of the Shepherd Model
Gateway.
"""

from typing import ClassVar

from extproc.api.request import RoutingRequest
from extproc.fleet.candidates import Candidates
from extproc.policies.base import Choice, Needs, PolicyContext, Reason


class RoundRobin:
    """Each candidate in turn."""

    name: ClassVar[str] = "round_robin"
    needs: ClassVar[Needs] = Needs.NOTHING

    def __init__(self, context: PolicyContext) -> None:
        self._turns = context.turns
        self._max_endpoints = context.max_endpoints

    def choose(self, request: RoutingRequest, candidates: Candidates) -> Choice:  # noqa: ARG002 - needs nothing of it
        """Take the next turn."""
        size = len(candidates)
        first = self._turns.next() % size
        last = first + min(self._max_endpoints, size)
        workers = candidates.workers
        turns = workers[first:last] if last <= size else workers[first:] + workers[: last - size]
        return Choice(turns, Reason.ROUND_ROBIN)
