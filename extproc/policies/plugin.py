"""A policy that an installed package brings along, with what it chooses checked.

It is a class behind an entry point of the group ``extproc.policies``, with the contract of
:class:`~extproc.policies.base.Policy` and one relief: it needs no ``name``, as it goes by that of its entry point. Its
reason is always ``plugin``. A choice of nobody, of a stranger or of somebody twice fails the decision, counted, instead
of misleading the data plane.
"""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, NoReturn

from extproc.api.request import RoutingRequest
from extproc.config.plugins import PluginGroup
from extproc.errors import PluginUnusable, PolicyFailed
from extproc.fleet.candidates import Candidates
from extproc.fleet.worker import Worker
from extproc.plugins.entry_points import load
from extproc.policies.base import Choice, Needs, PolicyContext, Reason

logger = logging.getLogger(__name__)

MAX_TERMS = 16
MAX_TERM_NAME_LENGTH = 64


def load_policy(name: str) -> type[Any]:
    """Return the class of a policy plugin; raises :class:`PluginUnusable`."""
    found = load(PluginGroup.POLICIES, name)
    if not isinstance(found, type):
        raise PluginUnusable(f"{name}: must be a class, not {type(found).__name__}")
    if not callable(getattr(found, "choose", None)):
        raise PluginUnusable(f"{name}: {found.__name__} has no method `choose`")
    if not isinstance(getattr(found, "needs", None), Needs):
        raise PluginUnusable(f"{name}: `needs` of {found.__name__} is not one of extproc.policies.base.Needs")
    return found


class PluginPolicy:
    """Loads the plugin ``name`` and makes its policy, with its own ``options``.

    Raises :class:`PluginUnusable` when that fails. ``on_failed`` is called for every choice that failed.
    """

    name: ClassVar[str]
    needs: ClassVar[Needs]

    def __init__(
        self, *, name: str, context: PolicyContext, options: Mapping[str, object], on_failed: Callable[[], None]
    ) -> None:
        found = load_policy(name)
        try:
            self._policy = found(replace(context, options=options))
        except Exception as error:
            raise PluginUnusable(f"{name}: it cannot be made: {type(error).__name__}: {error}") from error
        self.name = name  # type: ignore[misc]  # of this one, as its entry point has it
        self.needs = found.needs  # type: ignore[misc]
        self._most = context.max_endpoints
        self._on_failed = on_failed
        self._told: set[str] = set()

    def choose(self, request: RoutingRequest, candidates: Candidates) -> Choice:
        """Let it choose; raises :class:`PolicyFailed` when it raises, or chooses what cannot be chosen."""
        try:
            choice = self._policy.choose(request, candidates)
        except Exception as error:  # noqa: BLE001 - somebody else's code
            # Not its words: they may quote the request.
            self._fail(f"it raised {type(error).__name__}")
        try:
            return _checked(choice, candidates, self._most)
        except _Wrong as error:
            self._fail(str(error))

    def _fail(self, why: str) -> NoReturn:
        self._on_failed()
        # Bounded by the types of exceptions that it raises.
        if why not in self._told:
            self._told.add(why)
            logger.error("Policy %s failed: %s; that this happens again is only counted", self.name, why)
        raise PolicyFailed(f"policy {self.name}: {why}") from None


class _Wrong(Exception):  # noqa: N818 - it never leaves this module
    """What is wrong with a choice."""


def _checked(choice: object, candidates: Candidates, most: int) -> Choice:
    if not isinstance(choice, Choice):
        raise _Wrong(f"it returned {type(choice).__name__}, not Choice")
    workers = _workers(choice.workers, candidates, most)
    return Choice(workers, Reason.PLUGIN, _matched_tokens(choice.matched_tokens), _terms(choice.terms))


def _workers(chosen: object, candidates: Candidates, most: int) -> tuple[Worker, ...]:
    if not isinstance(chosen, tuple | list) or not chosen:
        raise _Wrong("it chose nobody")
    workers = tuple(chosen[:most])
    if not all(any(worker is candidate for candidate in candidates.workers) for worker in workers):
        raise _Wrong("it chose who is no candidate")
    if len({id(worker) for worker in workers}) < len(workers):
        raise _Wrong("it chose the same worker twice")
    return workers


def _matched_tokens(tokens: object) -> int | None:
    if tokens is not None and (not isinstance(tokens, int) or tokens < 0):
        raise _Wrong("its matched tokens are not a number")
    return tokens


def _terms(terms: Any) -> tuple[tuple[str, float], ...]:  # noqa: ANN401 - whatever the plugin gives
    try:
        pairs = tuple((str(name), float(value)) for name, value in tuple(terms)[:MAX_TERMS])
    except (TypeError, ValueError):
        raise _Wrong("its terms are not pairs of name and number") from None
    if not all(
        name.isascii() and name.isprintable() and len(name) <= MAX_TERM_NAME_LENGTH and math.isfinite(value)
        for name, value in pairs
    ):
        raise _Wrong("its terms are not pairs of name and number")
    return pairs
