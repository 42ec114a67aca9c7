"""Policies of installed packages: an entry point of the group ``extproc.policies`` names a class like those here.

It is made with a :class:`~extproc.policies.base.PolicyContext`, whose ``options`` are its own from the configuration.
It gets what every policy gets and is held to what every policy promises: what it returns is checked, and a choice that
names somebody else, nobody, or one twice fails the decision instead of misleading the data plane.
"""

from typing import Any, ClassVar

from extproc.api.request import RoutingRequest
from extproc.config.plugins import PluginGroup
from extproc.errors import PluginUnusable
from extproc.fleet.candidates import Candidates
from extproc.plugins.entry_points import load
from extproc.policies.base import Choice, Needs, PolicyContext, Reason


class PluginPolicy:
    """A policy of somebody else's, under the name of its entry point.

    Raises :class:`PluginUnusable` when it cannot be made.
    """

    name: ClassVar[str] = "plugin"
    needs: ClassVar[Needs] = Needs.NOTHING

    def __init__(self, context: PolicyContext, *, name: str) -> None:
        made: Any = load_policy(name)
        try:
            self._policy = made(context)
        except Exception as error:
            raise PluginUnusable(f"{name}: cannot be made: {type(error).__name__}: {error}") from error
        # Of this policy, not of the class: there may be several plugins.
        self.name = name  # type: ignore[misc]
        self.needs = made.needs  # type: ignore[misc]

    def choose(self, request: RoutingRequest, candidates: Candidates) -> Choice:
        """Let it choose; raises ``ValueError`` when what it returns is no choice of candidates."""
        choice = self._policy.choose(request, candidates)
        workers = tuple(choice.workers)
        known = {id(worker) for worker in candidates.workers}
        chosen = [id(worker) for worker in workers]
        if not chosen or len(set(chosen)) < len(chosen) or not known.issuperset(chosen):
            raise ValueError(f"the policy {self.name} did not choose from the candidates")
        return Choice(workers, Reason.PLUGIN, choice.matched_tokens, choice.terms)


def load_policy(name: str) -> Any:  # noqa: ANN401 - somebody else's class
    """Import a policy's class; raises :class:`PluginUnusable` when it is none."""
    found = load(PluginGroup.POLICIES, name)
    if not isinstance(getattr(found, "needs", None), Needs) or not callable(getattr(found, "choose", None)):
        raise PluginUnusable(f"{name}: is no policy: it has no `needs` or no `choose`")
    return found
