"""``random``: every candidate with the same probability, fall-backs likewise.

When to use it: as a baseline, or when requests are alike and many. State: none. Fall-backs: other candidates, drawn
without replacement. Source of the rule: the family of the Shepherd Model Gateway.
"""

from typing import ClassVar

from extproc.api.request import RoutingRequest
from extproc.fleet.candidates import Candidates
from extproc.policies.base import Choice, Needs, PolicyContext, Reason, drawn, picked


class Random:
    """Uniform choice."""

    name: ClassVar[str] = "random"
    needs: ClassVar[Needs] = Needs.NOTHING

    def __init__(self, context: PolicyContext) -> None:
        self._rng = context.rng
        self._max_endpoints = context.max_endpoints

    def choose(self, request: RoutingRequest, candidates: Candidates) -> Choice:  # noqa: ARG002 - needs nothing of it
        """Draw the whole list without replacement."""
        order = drawn(self._rng, len(candidates), self._max_endpoints)
        return Choice(picked(candidates, order), Reason.RANDOM)
