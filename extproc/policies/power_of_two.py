"""``power_of_two``: two different candidates at random; the less loaded one wins.

When to use it: many workers and requests of similar cost; it never herds, even on loads that are a moment old. State:
none of its own; it reads the load that all processes share. Fall-backs: the other of the two, then any others. Cost:
the same for any number of workers. Source of the rule: the family of the Shepherd Model Gateway.
"""

from typing import ClassVar

from extproc.api.request import RoutingRequest
from extproc.fleet.candidates import Candidates
from extproc.policies.base import Choice, Needs, PolicyContext, Reason


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
        drawn = self._rng.sample(range(len(candidates)), min(max(self._max_endpoints, 2), len(candidates)))
        workers = [candidates.workers[position] for position in drawn]
        if len(workers) > 1:
            first, second = self._measure(candidates.only(drawn[:2]))
            if second < first:
                workers[0], workers[1] = workers[1], workers[0]
        return Choice(tuple(workers[: self._max_endpoints]), Reason.LESS_LOADED_OF_TWO)

    def _measure(self, pair: Candidates) -> list[float]:
        if self._metric == "requests":
            measured = self._loads.requests(pair)
        else:
            load = self._loads.read(pair)
            measured = load.kv_usage if self._metric == "kv_usage" else load.expected_wait_secs()
        numbers: list[float] = measured.tolist()
        return numbers
