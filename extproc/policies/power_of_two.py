"""``power_of_two``: two different candidates at random; the less loaded one wins.

``load_metric`` says what is compared: ``expected_wait`` (the score of ``least_load``), ``requests`` in flight, or
``kv_usage``, the share of the KV cache that running requests use. Where one of the two engines has not told its usage
lately, the two are compared by requests: a silent engine must not pass for an empty one.

When to use it: many workers and requests of similar cost; it never herds, even on loads that are a moment old. State:
none of its own; it reads the load that all processes share. Fall-backs: the other of the two, then any others. Cost:
the same for any number of workers. Source of the rule: the family of the Shepherd Model Gateway.
"""

from typing import ClassVar

from extproc.api.request import RoutingRequest
from extproc.fleet.candidates import Candidates
from extproc.policies.base import Choice, Needs, PolicyContext, Reason, drawn, picked


class PowerOfTwo:
    """The less loaded of two."""

    name: ClassVar[str] = "power_of_two"
    needs: ClassVar[Needs] = Needs.NOTHING

    def __init__(self, context: PolicyContext) -> None:
        self._rng = context.rng
        self._loads = context.loads
        self._metric = context.parameters.power_of_two.load_metric
        self._max_endpoints = context.max_endpoints

    def choose(self, request: RoutingRequest, candidates: Candidates) -> Choice:  # noqa: ARG002 - needs nothing of it
        """Draw, and put the less loaded of the first two in front; on a tie the draw stands."""
        order = drawn(self._rng, len(candidates), max(self._max_endpoints, 2))
        if len(order) > 1 and self._less_loaded(candidates, order[1], order[0]):
            order[0], order[1] = order[1], order[0]
        return Choice(picked(candidates, order[: self._max_endpoints]), Reason.LESS_LOADED_OF_TWO)

    def _less_loaded(self, candidates: Candidates, this: int, that: int) -> bool:
        one, other = self._loads.read_one(candidates, this), self._loads.read_one(candidates, that)
        if self._metric == "expected_wait":
            return one.expected_wait_secs() < other.expected_wait_secs()
        if self._metric == "kv_usage" and one.told and other.told:
            return one.kv_usage < other.kv_usage
        return one.requests < other.requests
