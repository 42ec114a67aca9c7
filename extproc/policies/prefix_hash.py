"""``prefix_hash``: the beginning of the prompt is the key of a ring, with a bound on load.

The first ``prefix_token_count`` tokens are hashed; the ring's worker is taken if its requests are at most
``load_factor`` times the mean, or at most ``balance_abs_threshold`` over it; else the next on the ring that is; if none
is, the ring's worker after all.

When to use it: few long shared prefixes, many workers, and no wish for shared state; ``cache_aware`` finds more. State:
none. Fall-backs: the next on the ring. Source of the rule: the family of the Shepherd Model Gateway.
"""

from itertools import islice
from typing import ClassVar

import xxhash

from extproc.api.request import RoutingRequest
from extproc.fleet.candidates import Candidates
from extproc.policies.base import Choice, Needs, PolicyContext, Ranking, Reason, picked
from extproc.policies.rings import Rings

VIRTUAL_NODES = 150


class PrefixHash:
    """The ring worker of the prompt's beginning, unless it has too much to do."""

    name: ClassVar[str] = "prefix_hash"
    needs: ClassVar[Needs] = Needs.TOKENS

    def __init__(self, context: PolicyContext) -> None:
        parameters = context.parameters.prefix_hash
        self._loads = context.loads
        self._ranking = Ranking(context)
        self._rings = Rings(virtual_nodes=VIRTUAL_NODES)
        self._tokens = parameters.prefix_token_count
        self._load_factor = parameters.load_factor
        self._over_mean = parameters.balance_abs_threshold
        self._max_endpoints = context.max_endpoints

    def choose(self, request: RoutingRequest, candidates: Candidates) -> Choice:
        """Walk the ring from the hash of the prompt's beginning."""
        if not request.prompts or not len(request.prompts[0].ids):
            return self._ranking.choice(candidates, self._loads.read(candidates).expected_wait_secs(), Reason.NO_KEY)
        prompt = request.prompts[0]
        key = xxhash.xxh3_64_intdigest(prompt.ids[: self._tokens].tobytes(), seed=prompt.root)
        ring = self._rings.ring(candidates)
        requests: list[float] = self._loads.requests(candidates).tolist()
        total = sum(requests)
        most = max(self._load_factor * (total + 1), total + self._over_mean * len(candidates)) / len(candidates)
        order = list(islice(ring.walk(key), self._max_endpoints))
        if requests[order[0]] <= most:
            return Choice(picked(candidates, order), Reason.RING)
        everyone = list(ring.walk(key))
        start = next((at for at, position in enumerate(everyone) if requests[position] <= most), 0)
        order = [*everyone[start:], *everyone[:start]][: self._max_endpoints]
        return Choice(picked(candidates, order), Reason.RING_NEXT if start else Reason.RING)
