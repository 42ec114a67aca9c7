"""``least_load``: the candidate that is expected to begin with the prompt soonest.

The score is the time for the prompts that it has to compute, uncached tokens and the context that they attend to at the
worker's own learned rate, a little for every request in flight, and a term that grows without bound as its KV cache
fills; the lowest wins. A prompt counts from the choice on, and less with every moment in which it should be in work.

When to use it: prompts of very different length that share little. State: none of its own; it reads the load that all
processes share. Fall-backs: the next lowest scores. Source of the rule: the Shepherd Model Gateway's policy of that
name; there, tokens are given back late.
"""

from typing import ClassVar

from extproc.api.request import RoutingRequest
from extproc.fleet.candidates import Candidates
from extproc.policies.base import Choice, Needs, PolicyContext, Ranking, Reason


class LeastLoad:
    """The lowest expected wait."""

    name: ClassVar[str] = "least_load"
    needs: ClassVar[Needs] = Needs.NOTHING

    def __init__(self, context: PolicyContext) -> None:
        self._loads = context.loads
        self._ranking = Ranking(context)

    def choose(self, request: RoutingRequest, candidates: Candidates) -> Choice:  # noqa: ARG002 - needs nothing of it
        """Compare scores; ties are drawn."""
        return self._ranking.choice(candidates, self._loads.read(candidates).expected_wait_secs(), Reason.LEAST_LOAD)
