"""What may take part in a simulation: every policy of the service, plugins, and some that exist for comparison only."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from extproc.errors import PluginUnusable
from extproc.policies.base import Policy, PolicyContext
from extproc.policies.plugin import PluginPolicy
from extproc.policies.registry import POLICIES
from extproc.simulation.modelled import ModelledWorker
from extproc.simulation.oracle import Oracle
from extproc.simulation.references import LeastRequests, LongestPrefix, SmgCacheAware
from extproc.simulation.simulation import Contender

ORACLE = "oracle"


class OfTheService:
    """A policy as it serves.

    ``follows_losses``: whether it is told when engines must have evicted what they were sent.
    """

    def __init__(self, policy: type[Policy], *, follows_losses: bool = True) -> None:
        self._policy = policy
        self.name = policy.name
        self.follows_losses = follows_losses

    def make(self, context: PolicyContext, workers: Sequence[ModelledWorker]) -> Policy:  # noqa: ARG002 - sees no engine
        """Make it for one router."""
        return self._policy(context)


class OfAPackage:
    """A policy that an installed package brings along. A choice that fails ends the run."""

    follows_losses = True

    def __init__(self, name: str) -> None:
        self.name = name

    def make(self, context: PolicyContext, workers: Sequence[ModelledWorker]) -> Policy:  # noqa: ARG002 - sees no engine
        """Make it for one router; raises :class:`PluginUnusable`."""
        return PluginPolicy(name=self.name, context=context, options={}, on_failed=self._failed)

    def _failed(self) -> None:
        raise PluginUnusable(f"{self.name}: it has chosen nobody who can be chosen")


class TheOracle:
    """The policy that sees the engines themselves, or only their queues or their caches."""

    follows_losses = True

    def __init__(self, name: str, *, true_queues: bool = True, true_caches: bool = True) -> None:
        self.name = name
        self._true_queues = true_queues
        self._true_caches = true_caches

    def make(self, context: PolicyContext, workers: Sequence[ModelledWorker]) -> Policy:
        """Make it for one router."""
        return Oracle(context, workers, true_queues=self._true_queues, true_caches=self._true_caches)


def _contenders() -> Mapping[str, Contender]:
    own = {name: OfTheService(policy) for name, policy in POLICIES.items()}
    others: list[Contender] = [
        OfTheService(SmgCacheAware, follows_losses=False),
        OfTheService(LeastRequests),
        OfTheService(LongestPrefix, follows_losses=False),
        TheOracle(ORACLE),
        TheOracle("oracle_of_queues", true_caches=False),
        TheOracle("oracle_of_caches", true_queues=False),
    ]
    return MappingProxyType({**own, **{contender.name: contender for contender in others}})


CONTENDERS = _contenders()
"""Every contender that is always there, by its name."""
