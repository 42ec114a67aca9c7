"""``passthrough``: the one worker.

When to use it: one worker behind the data plane, for the service's other work (limits, metrics, plugins). With more
than one worker in the configuration the service does not start; should discovery bring more, requests go to any of them
and are counted under the reason ``first_of_many``. State: none. Source of the rule: the family of the Shepherd Model
Gateway.
"""

from typing import ClassVar

from extproc.api.request import RoutingRequest
from extproc.fleet.candidates import Candidates
from extproc.policies.base import Choice, Needs, PolicyContext, Reason


class Passthrough:
    """No choice at all."""

    name: ClassVar[str] = "passthrough"
    needs: ClassVar[Needs] = Needs.NOTHING

    def __init__(self, context: PolicyContext) -> None:
        self._rng = context.rng
        self._max_endpoints = context.max_endpoints

    def choose(self, request: RoutingRequest, candidates: Candidates) -> Choice:  # noqa: ARG002 - needs nothing of it
        """Take the only one; any, where there are several."""
        workers = candidates.workers
        if len(workers) == 1:
            return Choice(workers, Reason.ONLY_WORKER)
        drawn = self._rng.sample(workers, min(self._max_endpoints, len(workers)))
        return Choice(tuple(drawn), Reason.FIRST_OF_MANY)
