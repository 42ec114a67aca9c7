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
from extproc.fleet.loads import Load
from extproc.policies.base import Choice, Floats, Needs, PolicyContext, Ranking, Reason, picked


class CacheAware:
    """The least loaded of those that hold the prefix."""

    name: ClassVar[str] = "cache_aware"
    needs: ClassVar[Needs] = Needs.TOKENS

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
        matched = blocks * prompt.block_size
        done = wait + (len(prompt.ids) - matched) / load.prefill_rate
        best = float(blocks.max())
        if best * prompt.block_size <= self._parameters.cache_threshold * len(prompt.ids):
            return self._chosen(candidates, self._ranking.lowest(wait), Reason.NO_MATCH, matched)
        eligible = blocks >= best - 1
        # Whoever holds less comes after everybody who is eligible, the sooner done first.
        order = self._ranking.lowest(np.where(eligible, wait - wait.max() - 1.0, done))
        reason = self._spill(load, order[0], done)
        if reason is None:
            return self._chosen(candidates, order, Reason.PREFIX_MATCH, matched)
        return self._chosen(
            candidates,
            self._ranking.lowest(wait if reason is Reason.SPILL_OVERLOAD else done),
            reason,
            matched,
        )

    def _spill(self, load: Load, winner: int, done: Floats) -> Reason | None:
        """Why the winner has to give way, or None."""
        requests = float(load.requests[winner])
        mean = float(load.requests.mean())
        parameters = self._parameters
        if requests > mean + parameters.balance_abs_threshold and requests > parameters.balance_rel_threshold * mean:
            return Reason.SPILL_OVERLOAD
        return Reason.SPILL_COST if float((1.1 * done).min()) < float(done[winner]) else None

    def _chosen(self, candidates: Candidates, order: list[int], reason: Reason, matched: Floats) -> Choice:
        return Choice(picked(candidates, order), reason, int(matched[order[0]]))
