"""``passthrough``: the one worker.

When to use it: one worker behind the data plane, for the service's other work (limits, metrics, plugins). A
configuration with more of them is refused; should there be more at run time, as discovery may bring them, requests go
to any of them, are counted under the reason ``first_of_many``, and the log says so once. State: none. Source of the
rule: the family of the Shepherd Model Gateway.
"""

import logging
from typing import ClassVar

from extproc.api.request import RoutingRequest
from extproc.fleet.candidates import Candidates
from extproc.policies.base import Choice, Needs, PolicyContext, Reason, drawn, picked

logger = logging.getLogger(__name__)


class Passthrough:
    """No choice at all."""

    name: ClassVar[str] = "passthrough"
    needs: ClassVar[Needs] = Needs.NOTHING

    def __init__(self, context: PolicyContext) -> None:
        self._rng = context.rng
        self._max_endpoints = context.max_endpoints
        self._warned = False

    def choose(self, request: RoutingRequest, candidates: Candidates) -> Choice:  # noqa: ARG002 - needs nothing of it
        """Take the only one; any, where there are several."""
        if len(candidates) == 1:
            return Choice(candidates.workers, Reason.ONLY_WORKER)
        if not self._warned:
            self._warned = True
            logger.warning("The policy passthrough is for one worker, and there are %d", len(candidates))
        order = drawn(self._rng, len(candidates), self._max_endpoints)
        return Choice(picked(candidates, order), Reason.FIRST_OF_MANY)
