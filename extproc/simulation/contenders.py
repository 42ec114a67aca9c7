"""What may take part in a simulation: every policy of the service, and some that only exist for comparison."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from extproc.policies.base import Policy, PolicyContext
from extproc.policies.registry import POLICIES
from extproc.simulation.modelled import ModelledWorker
from extproc.simulation.oracle import Oracle
from extproc.simulation.references import LeastRequests, LongestPrefix, SmgCacheAware

ORACLE = "oracle"


class OfTheService:
    """A policy as it serves."""

    def __init__(self, policy: type[Policy]) -> None:
        self._policy = policy
        self.name = policy.name

    def make(self, context: PolicyContext, workers: Sequence[ModelledWorker]) -> Policy:  # noqa: ARG002 - sees no engine
        """Make it for one router."""
        return self._policy(context)


class TheOracle:
    """The policy that sees the engines themselves."""

    name = ORACLE

    def make(self, context: PolicyContext, workers: Sequence[ModelledWorker]) -> Policy:
        """Make it for one router."""
        return Oracle(context, workers)


Contenders = Mapping[str, OfTheService | TheOracle]


def _contenders() -> Contenders:
    policies: list[type[Policy]] = [*POLICIES.values(), SmgCacheAware, LeastRequests, LongestPrefix]
    return MappingProxyType({**{policy.name: OfTheService(policy) for policy in policies}, ORACLE: TheOracle()})


CONTENDERS = _contenders()
"""Every contender by its name."""
