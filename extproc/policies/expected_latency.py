"""``expected_latency``: one cost in seconds instead of thresholds; the lowest wins.

For each candidate, from rates learned of that worker and exact tokens in flight over all processes:

* *wait*: the uncached prompt tokens before ours at its rate, what running requests add, and the pressure of a full KV
  cache;
* *prefill*: our own uncached tokens at its rate, dearer with the context they attend to, and a little for every cached
  one (measured on vLLM: cached tokens are cheap, not free);
* *stall*: our prefill holds up every answer that it is generating, weighted by ``stall_weight``;
* *eviction*: what our blocks displace from a cache that is full has to be computed again, weighted by
  ``eviction_weight``.

It becomes affinity where prefill is dear and least load where it is cheap, and leaves no worker idle that would answer
sooner. When to use it: nearly always. State: the prefix index and the loads, both shared. Fall-backs: the next lowest
costs. Source of the rule: our own; the form of the terms is fitted to measurements of vLLM on an H100.
"""

from typing import ClassVar

from extproc.api.request import RoutingRequest
from extproc.fleet.candidates import Candidates
from extproc.policies.base import Choice, Needs, PolicyContext, Ranking, Reason, picked, prompt_tokens_of


class ExpectedLatency:
    """The lowest expected cost."""

    name: ClassVar[str] = "expected_latency"
    needs: ClassVar[Needs] = Needs.TOKENS

    def __init__(self, context: PolicyContext) -> None:
        self._parameters = context.parameters.expected_latency
        self._prefixes = context.prefixes
        self._loads = context.loads
        self._ranking = Ranking(context)

    def choose(self, request: RoutingRequest, candidates: Candidates) -> Choice:
        """Add up the cost of each candidate."""
        parameters = self._parameters
        load = self._loads.read(candidates)
        tokens = float(prompt_tokens_of(request))
        cached = load.requests * 0.0
        if request.prompts and len(request.prompts[0].block_hashes):
            prompt = request.prompts[0]
            cached = self._prefixes.match(prompt.block_hashes, candidates.slots) * prompt.block_size
        new = tokens - cached
        compute = new / load.prefill_rate * (1.0 + (cached + new / 2) / parameters.attention_tokens)
        wait = load.expected_wait_secs()
        prefill = compute + cached * parameters.cached_token_secs
        stall = parameters.stall_weight * load.requests * compute
        block_tokens = request.prompts[0].block_size if request.prompts else 1
        room = self._loads.room(candidates)
        held = room.recorded_blocks * block_tokens + new
        full = (held > room.capacity_tokens) & (room.capacity_tokens > 0)
        eviction = parameters.eviction_weight * full * new / load.prefill_rate
        order = self._ranking.lowest(wait + prefill + stall + eviction)
        first = order[0]
        terms = (
            ("wait", float(wait[first])),
            ("prefill", float(prefill[first])),
            ("stall", float(stall[first])),
            ("eviction", float(eviction[first])),
        )
        return Choice(picked(candidates, order), Reason.EXPECTED_LATENCY, int(cached[first]), terms)
