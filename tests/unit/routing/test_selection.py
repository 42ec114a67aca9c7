"""Which policy decides: the request's, its model's, the default; and one that only watches."""

import logging
from typing import ClassVar

import pytest

from extproc.api.request import RoutingRequest
from extproc.config.models import ModelSpec
from extproc.errors import PluginUnusable
from extproc.fleet.candidates import Candidates
from extproc.policies.base import Choice, Needs, Reason
from extproc.routing.selection import PolicySelector
from extproc.telemetry.metrics import Metrics
from tests.support.fleets import candidates


class Fixed:
    """A policy that always takes the candidate at one position."""

    name: ClassVar[str]
    needs: ClassVar[Needs]

    def __init__(self, name: str, *, needs: Needs = Needs.NOTHING, position: int = 0) -> None:
        self.name = name  # type: ignore[misc]  # each of these is a policy of its own
        self.needs = needs  # type: ignore[misc]
        self.position = position
        self.error: Exception | None = None
        self.asked = 0

    def choose(self, request: RoutingRequest, candidates: Candidates) -> Choice:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return Choice((candidates.workers[self.position],), Reason.RANDOM)


class Selecting:
    """A selector over the policies ``default``, ``asked``, ``own`` and what a test adds."""

    def __init__(self, *added: Fixed, overrides: tuple[str, ...] = (), shadow: Fixed | None = None) -> None:
        self.policies = {name: Fixed(name) for name in ("default", "asked", "own")}
        self.policies |= {policy.name: policy for policy in added}
        self.metrics = Metrics()
        self.made: list[str] = []
        self.selector = PolicySelector(
            make=self.make,
            default="default",
            shadow=shadow,
            overrides=overrides,
            metrics=self.metrics,
        )

    def make(self, name: str) -> Fixed:
        self.made.append(name)
        if name not in self.policies:
            raise PluginUnusable(f"{name}: not installed")
        return self.policies[name]

    def select(self, *, headers: dict[str, str] | None = None, spec: ModelSpec | None = None) -> str:
        return self.selector.select(asking(**(headers or {})), spec).name

    def fallbacks(self, reason: str) -> float:
        return float(self.metrics.fallbacks.labels(reason)._value.get())

    def compared(self, result: str) -> float:
        return float(self.metrics.shadow_decisions.labels("shadow", "random", result)._value.get())


def asking(**headers: str) -> RoutingRequest:
    return RoutingRequest(method="POST", path="/", headers={name.replace("_", "-"): v for name, v in headers.items()})


OWN = ModelSpec(name="m", policy="own")


def test_the_default_decides_where_nothing_else_is_said() -> None:
    selecting = Selecting()
    assert selecting.select() == selecting.select(spec=ModelSpec(name="m")) == "default"


def test_a_model_has_a_policy_of_its_own() -> None:
    selecting = Selecting()
    assert [selecting.select(spec=OWN), selecting.select(spec=OWN)] == ["own", "own"]
    assert selecting.made == ["default", "own"]


@pytest.mark.parametrize("header", ["x-extproc-policy", "x-smg-policy"])
def test_a_request_may_ask_for_an_allowed_policy_by_either_header(header: str) -> None:
    selecting = Selecting(overrides=("asked", "default"))
    assert selecting.select(headers={header: "asked"}, spec=OWN) == "asked"
    assert selecting.select(headers={header: "default"}, spec=OWN) == "default"
    assert selecting.fallbacks("policy_not_allowed") == 0
    assert selecting.made.count("default") == 1


@pytest.mark.parametrize("name", ["own", "no_such_policy"])
def test_a_policy_that_is_not_allowed_is_not_used_and_that_is_counted(name: str) -> None:
    selecting = Selecting(overrides=("asked",))
    headers = {"x-extproc-policy": name}
    assert (selecting.select(headers=headers), selecting.select(headers=headers, spec=OWN)) == ("default", "own")
    assert selecting.fallbacks("policy_not_allowed") == 2


def test_without_an_allow_list_the_headers_are_not_looked_at() -> None:
    selecting = Selecting()
    assert selecting.select(headers={"x-extproc-policy": "asked"}) == "default"
    assert selecting.fallbacks("policy_not_allowed") == 0


def test_a_models_policy_that_cannot_be_made_is_counted_each_time_and_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    selecting = Selecting()
    spec = ModelSpec(name="m", policy="gone")
    assert [selecting.select(spec=spec) for _ in range(3)] == ["default"] * 3
    assert selecting.fallbacks("policy_unknown") == 3
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == ["gone: not installed"]


def test_a_default_or_allowed_policy_that_cannot_be_made_is_no_start() -> None:
    with pytest.raises(PluginUnusable):
        Selecting(overrides=("gone",))


@pytest.mark.parametrize(
    ("added", "overrides", "shadow", "models", "expected"),
    [
        ([], (), None, (), Needs.NOTHING),
        ([Fixed("default", needs=Needs.HEADERS)], (), None, (), Needs.HEADERS),
        ([Fixed("asked", needs=Needs.TOKENS)], ("asked",), None, (), Needs.TOKENS),
        ([Fixed("asked", needs=Needs.TOKENS)], (), None, (), Needs.NOTHING),
        ([], (), Fixed("shadow", needs=Needs.BODY), (), Needs.BODY),
        ([], (), None, (OWN,), Needs.BODY),
        ([Fixed("own", needs=Needs.TOKENS)], (), None, (OWN,), Needs.TOKENS),
        ([], (), None, (ModelSpec(name="m", policy="gone"),), Needs.NOTHING),
    ],
    ids=["none", "default", "allowed", "not allowed", "shadow", "to find the model", "model's own", "model's is gone"],
)
def test_the_needs_are_those_of_whoever_may_decide(
    added: list[Fixed],
    overrides: tuple[str, ...],
    shadow: Fixed | None,
    models: tuple[ModelSpec, ...],
    expected: Needs,
) -> None:
    assert Selecting(*added, overrides=overrides, shadow=shadow).selector.needs(models) == expected


@pytest.mark.parametrize(("needs", "expected"), [(Needs.BODY, False), (Needs.TOKENS, True)])
def test_says_whether_the_shadow_looks_at_tokens(needs: Needs, expected: bool) -> None:
    assert Selecting(shadow=Fixed("shadow", needs=needs)).selector.shadow_needs_tokens is expected
    assert not Selecting().selector.shadow_needs_tokens


def test_the_shadow_decides_too_and_is_compared() -> None:
    shadow = Fixed("shadow")
    selecting = Selecting(shadow=shadow)
    everyone = candidates(3)
    choice = Choice(everyone.workers[1:], Reason.ROUND_ROBIN)
    for position in (1, 0, 2):
        shadow.position = position
        selecting.selector.compare(asking(), everyone, choice)
    assert (selecting.compared("same"), selecting.compared("different")) == (1, 2)


def test_without_a_shadow_nothing_is_compared() -> None:
    everyone = candidates(2)
    selecting = Selecting()
    selecting.selector.compare(asking(), everyone, Choice(everyone.workers, Reason.RANDOM))
    assert [sample for family in selecting.metrics.shadow_decisions.collect() for sample in family.samples] == []


def test_a_shadow_that_fails_is_counted_each_time_and_told_of_once_without_its_words(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shadow = Fixed("shadow")
    shadow.error = ValueError("the secret of a prompt")
    selecting = Selecting(shadow=shadow)
    everyone = candidates(2)
    with caplog.at_level(logging.DEBUG):
        for _ in range(3):
            selecting.selector.compare(asking(), everyone, Choice(everyone.workers, Reason.RANDOM))
    assert selecting.fallbacks("shadow_failed") == 3
    (record,) = caplog.records
    assert "shadow raised ValueError" in record.getMessage()
    assert "secret" not in caplog.text
