"""Which policy decides: the one the request asks for, its model's, or the default; and which one only watches."""

import logging
from collections.abc import Callable, Collection, Iterable

from extproc.api.request import RoutingRequest
from extproc.config.models import ModelSpec
from extproc.errors import PluginUnusable
from extproc.fleet.candidates import Candidates
from extproc.policies.base import Choice, Needs, Policy, header_of
from extproc.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

POLICY_HEADERS = ("x-extproc-policy", "x-smg-policy")


class PolicySelector:
    """Holds one policy of each name that is in use.

    ``make`` makes a policy by its name, and raises :class:`~extproc.errors.PluginUnusable` where there is none. It must
    not for ``default`` and for ``overrides``, the names that a request may ask for; the policies of models come and go
    with the list of models. ``shadow`` is the policy that decides too and never acts, with state of its own.
    """

    def __init__(
        self,
        *,
        make: Callable[[str], Policy],
        default: str,
        shadow: Policy | None,
        overrides: Collection[str],
        metrics: Metrics,
    ) -> None:
        self._make = make
        self._made: dict[str, Policy | None] = {}
        self._default = self._made[default] = make(default)
        self._overrides = {name: self._default if name == default else make(name) for name in overrides}
        self._made |= self._overrides
        self._shadow = shadow
        self._shadow_failures: set[str] = set()
        self._fallbacks = metrics.fallbacks
        self._shadow_decisions = metrics.shadow_decisions
        every = [self._default, *self._overrides.values(), *([] if shadow is None else [shadow])]
        self._needs: Needs = max(policy.needs for policy in every)

    def needs(self, models: Iterable[ModelSpec]) -> Needs:
        """Return the most that any policy may look at while these are the models."""
        own = [policy for spec in models if spec.policy and (policy := self._policy(spec.policy)) is not None]
        # A model's own policy needs the body at least, as the model is named there.
        return max([self._needs, *[max(policy.needs, Needs.BODY) for policy in own]])

    def select(self, request: RoutingRequest, spec: ModelSpec | None) -> Policy:
        """Return the policy that decides on a request for a model."""
        if self._overrides:
            name = header_of(request, POLICY_HEADERS)
            if name in self._overrides:
                return self._overrides[name]
            if name:
                self._fallbacks.labels("policy_not_allowed").inc()
        if spec is not None and spec.policy:
            policy = self._policy(spec.policy)
            if policy is not None:
                return policy
            self._fallbacks.labels("policy_unknown").inc()
        return self._default

    @property
    def shadow_needs_tokens(self) -> bool:
        """Whether the policy that only watches looks at tokens."""
        return self._shadow is not None and self._shadow.needs >= Needs.TOKENS

    def compare(self, request: RoutingRequest, candidates: Candidates, choice: Choice) -> None:
        """Let the policy that only watches decide too, before the choice is accounted for; count what it says."""
        shadow = self._shadow
        if shadow is None:
            return
        try:
            other = shadow.choose(request, candidates)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the request is decided
            self._fallbacks.labels("shadow_failed").inc()
            # Once, and not its words: they may quote the request.
            kind = type(error).__name__
            if kind not in self._shadow_failures:
                self._shadow_failures.add(kind)
                logger.error("Shadow policy %s raised %s; that this happens again is only counted", shadow.name, kind)  # noqa: TRY400
            return
        result = "same" if other.workers[0] is choice.workers[0] else "different"
        self._shadow_decisions.labels(shadow.name, other.reason.value, result).inc()

    def _policy(self, name: str) -> Policy | None:
        if name not in self._made:
            # Bounded by the names that the configuration ever had.
            try:
                self._made[name] = self._make(name)
            except PluginUnusable as error:
                self._made[name] = None
                logger.error("The policy of a model cannot be used, so `routing.policy` is: %s", error)  # noqa: TRY400
        return self._made[name]
