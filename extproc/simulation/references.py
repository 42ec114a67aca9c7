"""Rules of other gateways and of plain reason, against which the service's own policies are measured."""

from typing import ClassVar

import numpy as np

from extproc.api.request import RoutingRequest
from extproc.fleet.candidates import Candidates
from extproc.policies.base import Choice, Needs, PolicyContext, Ranking, Reason, picked


class SmgCacheAware:
    """``cache_aware`` as the Shepherd Model Gateway has it, with its defaults.

    Where the most loaded worker has more requests than the least loaded one by 64 and by half, the least loaded;
    otherwise whoever holds the longest prefix, if that is more than 0.3 of the prompt; otherwise the least loaded. The
    first of equals wins. Source: the documentation and the comments of its ``cache_aware`` policy.
    """

    name: ClassVar[str] = "smg_cache_aware"
    needs: ClassVar[Needs] = Needs.PREFIXES

    def __init__(self, context: PolicyContext) -> None:
        self._parameters = context.parameters.cache_aware
        self._prefixes = context.prefixes
        self._loads = context.loads

    def choose(self, request: RoutingRequest, candidates: Candidates) -> Choice:
        """Follow the rule."""
        parameters, prompt = self._parameters, request.prompts[0]
        requests = self._loads.requests(candidates)
        blocks = self._prefixes.match(prompt.block_hashes, candidates.slots)
        most, least = float(requests.max()), float(requests.min())
        imbalanced = most - least > parameters.balance_abs_threshold and most > parameters.balance_rel_threshold * least
        best = int(blocks.argmax())
        if imbalanced:
            position, reason = int(requests.argmin()), Reason.SPILL_OVERLOAD
        elif blocks[best] * prompt.block_size > parameters.cache_threshold * len(prompt.ids):
            position, reason = best, Reason.PREFIX_MATCH
        else:
            position, reason = int(requests.argmin()), Reason.NO_MATCH
        return Choice(picked(candidates, [position]), reason, int(blocks[position]) * prompt.block_size)


class LeastRequests:
    """Whoever has the fewest requests in flight; equals are drawn."""

    name: ClassVar[str] = "least_requests"
    needs: ClassVar[Needs] = Needs.NOTHING

    def __init__(self, context: PolicyContext) -> None:
        self._loads = context.loads
        self._ranking = Ranking(context)

    def choose(self, request: RoutingRequest, candidates: Candidates) -> Choice:  # noqa: ARG002 - needs nothing of it
        """Count."""
        return self._ranking.choice(candidates, self._loads.requests(candidates), Reason.LEAST_LOAD)


class LongestPrefix:
    """Whoever holds the longest prefix of the prompt, whatever it has to do; among equals the fewest requests."""

    name: ClassVar[str] = "longest_prefix"
    needs: ClassVar[Needs] = Needs.PREFIXES

    def __init__(self, context: PolicyContext) -> None:
        self._prefixes = context.prefixes
        self._loads = context.loads
        self._ranking = Ranking(context)

    def choose(self, request: RoutingRequest, candidates: Candidates) -> Choice:
        """Compare prefixes, then loads."""
        prompt = request.prompts[0]
        blocks = self._prefixes.match(prompt.block_hashes, candidates.slots)
        requests = self._loads.requests(candidates)
        order = self._ranking.lowest(np.where(blocks >= blocks.max(), requests - 1e6, requests))
        return Choice(picked(candidates, order), Reason.PREFIX_MATCH, int(blocks[order[0]]) * prompt.block_size)
