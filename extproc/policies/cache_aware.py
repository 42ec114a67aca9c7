"""``cache_aware``: to whoever holds the prompt's prefix, unless that costs more than it saves.

1. The longest known prefix of the prompt at each candidate, in blocks, from the index that all processes share.
2. If the best match is more than ``cache_threshold`` of the prompt, all candidates within one block of it are
   eligible, and the one with the least expected wait wins.
3. It gives way to the least loaded if it has more requests than the mean by ``balance_abs_threshold`` and by
   ``balance_rel_threshold`` times; or if computing the prompt elsewhere would be sooner done than waiting for it. The
   prompt is then recorded there, so a hot prefix spreads over as many workers as its load needs.
4. Otherwise the least expected wait wins.

When to use it: conversations, agents, shared system prompts: nearly always. State: the prefix index and the loads, both
shared. Fall-backs: eligible workers, then the next best by expected time. Cost: one look-up of all blocks of the
prompt. Source of the rule: the family of the Shepherd Model Gateway; there, a hot prefix below the gate used one worker
of four.
"""

from typing import ClassVar

import numpy as np

from extproc.api.request import RoutingRequest
from extproc.fleet.candidates import Candidates
from extproc.policies.base import Choice, Floats, Needs, PolicyContext, Ranking, Reason, cached_tokens, picked

PRICE_OF_WORK = 1.2
"""What computing counts, against waiting for as long: it takes the GPU's time and room in its cache. So a burst of
equal prompts, each of which would be done as soon elsewhere, does not scatter."""


class CacheAware:
    """The least loaded of those that hold the prefix."""

    name: ClassVar[str] = "cache_aware"
    needs: ClassVar[Needs] = Needs.PREFIXES

    def __init__(self, context: PolicyContext) -> None:
        self._parameters = context.parameters.cache_aware
        self._prefixes = context.prefixes
        self._loads = context.loads
        self._ranking = Ranking(context)

    def choose(self, request: RoutingRequest, candidates: Candidates) -> Choice:
        """Weigh what each holds against what each has to do."""
        load = self._loads.read(candidates)
        wait = load.expected_wait_secs()
        prompt = request.prompts[0] if request.prompts else None
        if prompt is None or not len(prompt.block_hashes):
            return self._ranking.choice(candidates, wait, Reason.LEAST_LOAD, matched_tokens=0)
        blocks = self._prefixes.match(prompt.block_hashes, candidates.slots)
        matched = cached_tokens(prompt, blocks)
        if float(blocks.max()) * prompt.block_size <= self._parameters.cache_threshold * len(prompt.ids):
            order, reason = self._ranking.lowest(wait), Reason.NO_MATCH
        else:
            done = wait + PRICE_OF_WORK * self._loads.prefill_secs(load, len(prompt.ids) - matched, matched)
            order, reason = self._affine(blocks, wait, done, load.requests)
        return Choice(picked(candidates, order), reason, int(matched[order[0]]))

    def _affine(self, blocks: Floats, wait: Floats, done: Floats, requests: Floats) -> tuple[list[int], Reason]:
        """Return whom to choose, and why; ``done`` is when each would be done with the prompt."""
        eligible = (blocks > 0) & (blocks >= blocks.max() - 1)
        # Whoever holds less comes after everybody who is eligible, the sooner done first.
        order = self._ranking.lowest(np.where(eligible, wait - wait.max() - 1.0, done))
        winner = order[0]
        if self._has_too_many(float(requests[winner]), float(requests.sum()) / len(requests)):
            order, reason = self._ranking.lowest(wait), Reason.SPILL_OVERLOAD
        elif float(np.where(eligible, np.inf, done).min()) < float(done[winner]):
            order, reason = self._ranking.lowest(done), Reason.SPILL_COST
        else:
            return order, Reason.PREFIX_MATCH
        return order, Reason.PREFIX_MATCH if eligible[order[0]] else reason

    def _has_too_many(self, requests: float, mean: float) -> bool:
        parameters = self._parameters
        return requests > mean + parameters.balance_abs_threshold and requests > parameters.balance_rel_threshold * mean
