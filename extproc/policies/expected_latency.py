"""``expected_latency``: one cost in seconds instead of thresholds; the lowest wins.

For each candidate, from rates learned of that worker and what all processes have sent there:

* *wait*: the prompts before ours that it has to compute, the queue where its seats are taken, a little for each
  request in flight, and the pressure of a full KV cache;
* *prefill*: our own uncached tokens at its rate, which are more work in a longer context, and a little for every cached
  one (measured on vLLM: cached tokens are cheap, not free);
* *work*: a share, ``work_weight``, of the time in which we compute: whoever comes next waits for it;
* *stall*: our prefill holds up every answer that it is generating, weighted by ``stall_weight``;
* *eviction*: what our blocks displace from a cache that is full has to be computed again, weighted by
  ``eviction_weight``. It never keeps a worker idle that would answer sooner.

It becomes affinity where prefill is dear and least load where it is cheap. When to use it: nearly always. State: the
prefix index and the loads, both shared. Fall-backs: the next lowest costs. Source of the rule: our own; the form of the
terms is fitted to measurements of vLLM on an H100.
"""

from typing import ClassVar

import numpy as np

from extproc.api.request import RoutingRequest
from extproc.fleet.candidates import Candidates
from extproc.policies.base import (
    Choice,
    Floats,
    Needs,
    PolicyContext,
    Ranking,
    Reason,
    cached_tokens,
    picked,
    prompt_tokens_of,
)


class ExpectedLatency:
    """The lowest expected cost."""

    name: ClassVar[str] = "expected_latency"
    needs: ClassVar[Needs] = Needs.PREFIXES

    def __init__(self, context: PolicyContext) -> None:
        self._parameters = context.parameters.expected_latency
        self._prefixes = context.prefixes
        self._loads = context.loads
        self._ranking = Ranking(context)

    def choose(self, request: RoutingRequest, candidates: Candidates) -> Choice:
        """Add up the cost of each candidate."""
        parameters = self._parameters
        load = self._loads.read(candidates)
        cached = self._cached_tokens(request, candidates)
        new = prompt_tokens_of(request) - cached
        compute = self._loads.prefill_secs(load, new, cached)
        wait = load.expected_wait_secs()
        prefill = compute + cached * parameters.cached_token_secs
        work = parameters.work_weight * compute
        stall = parameters.stall_weight * load.requests * compute
        eviction = parameters.eviction_weight * self._displaced_tokens(request, candidates, new) / load.prefill_rate
        costs = wait + prefill + work + stall
        order = self._ranking.lowest(self._without_idling(costs, costs + eviction, load.requests))
        first = order[0]
        named = (("wait", wait), ("prefill", prefill), ("work", work), ("stall", stall), ("eviction", eviction))
        terms = tuple([(name, float(secs[first])) for name, secs in named])
        return Choice(picked(candidates, order), Reason.EXPECTED_LATENCY, int(cached[first]), terms)

    def _cached_tokens(self, request: RoutingRequest, candidates: Candidates) -> Floats:
        if not request.prompts:
            return np.zeros(len(candidates))
        prompt = request.prompts[0]
        return cached_tokens(prompt, self._prefixes.match(prompt.block_hashes, candidates.slots))

    def _displaced_tokens(self, request: RoutingRequest, candidates: Candidates, new: Floats) -> Floats:
        """Return how many of our tokens find no room that is free; none where the room is not known."""
        room = self._loads.room(candidates)
        block_tokens = request.prompts[0].block_size if request.prompts else 1
        over = room.recorded_blocks * block_tokens + new - room.capacity_tokens
        displaced: Floats = np.clip(over, 0.0, new) * (room.capacity_tokens > 0)
        return displaced

    @staticmethod
    def _without_idling(costs: Floats, full_costs: Floats, requests: Floats) -> Floats:
        """Return ``full_costs``, below all others those of idle workers that would be sooner than the best one."""
        best = int(full_costs.argmin())
        if requests[best] < 1:
            return full_costs
        sooner = (requests < 1) & (costs < costs[best])
        without: Floats = full_costs - sooner * (1.0 + full_costs.max())
        return without
