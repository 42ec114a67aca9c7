"""Policies of installed packages: loading them, and checking what they choose."""

import itertools
import logging
import math
from pathlib import Path
from typing import Any

import pytest

from extproc.config.plugins import PluginGroup
from extproc.errors import PluginUnusable, PolicyFailed
from extproc.policies.base import Choice, Needs, Reason
from extproc.policies.plugin import MAX_TERMS, PluginPolicy, load_policy
from tests.support.fleets import Shared, candidates, request_with, worker
from tests.support.plugins import install

SOURCE = '''
from extproc.policies.base import Choice, Needs, Reason


class Last:
    """The last candidates, or what the option `returns` makes of them."""

    needs = Needs.HEADERS

    def __init__(self, context):
        self._options = context.options
        if self._options.get("wrong"):
            raise ValueError("the option `wrong` is wrong")

    def choose(self, request, candidates):
        returns = self._options.get("returns", lambda candidates: candidates.workers[::-1])
        made = returns(candidates)
        return made if self._options.get("whole") else Choice(made, Reason.PLUGIN)


class NoNeeds:
    def choose(self, request, candidates): ...


class NoChoice:
    needs = Needs.NOTHING


def function(context): ...
'''

modules = itertools.count()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugins ``last``, and those that are no policies."""
    module = f"policies_of_a_test_{next(modules)}"
    names = {"last": "Last", "no_needs": "NoNeeds", "no_choice": "NoChoice", "function": "function", "gone": "Gone"}
    points = {PluginGroup.POLICIES: {name: f"{module}:{kind}" for name, kind in names.items()}}
    monkeypatch.syspath_prepend(install(tmp_path, package="p", entry_points=points, modules={module: SOURCE}))


class Made:
    """The plugin ``last`` with some options, before three candidates, of which it may name two."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401
        self.failures = 0
        self.candidates = candidates(3)
        self.policy = PluginPolicy(
            name="last",
            context=Shared().context(max_endpoints=2, options={"not": "its own"}),
            options=options,
            on_failed=self.count,
        )

    def count(self) -> None:
        self.failures += 1

    def choose(self) -> Choice:
        return self.policy.choose(request_with(), self.candidates)


@pytest.mark.usefixtures("installed")
def test_a_plugin_chooses_under_the_name_of_its_entry_point() -> None:
    made = Made()
    assert (made.policy.name, made.policy.needs) == ("last", Needs.HEADERS)
    choice = made.choose()
    assert ([one.id for one in choice.workers], choice.reason) == (["w2", "w1"], Reason.PLUGIN)
    assert made.failures == 0


@pytest.mark.usefixtures("installed")
def test_what_else_it_says_of_its_choice_is_passed_on() -> None:
    terms = tuple((f"t{number}", number) for number in range(MAX_TERMS + 1))
    made = Made(whole=True, returns=lambda them: choosing(list(them.workers), Reason.PREFIX_MATCH, 7, terms))
    choice = made.choose()
    assert (choice.reason, choice.matched_tokens, choice.terms) == (Reason.PLUGIN, 7, terms[:MAX_TERMS])
    assert isinstance(choice.workers, tuple)


def choosing(*parts: Any) -> Choice:  # noqa: ANN401 - whatever somebody may put there
    return Choice(*parts)


def divides_by_zero(_candidates: object) -> object:
    raise ZeroDivisionError("the secret of a prompt")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"returns": divides_by_zero}, "raised ZeroDivisionError"),
        ({"returns": lambda them: ()}, "nobody"),
        ({"returns": lambda them: them.workers[0]}, "nobody"),
        ({"returns": lambda them: (worker(1), *them.workers)}, "no candidate"),
        ({"returns": lambda them: (them.workers[0], None)}, "no candidate"),
        ({"returns": lambda them: (them.workers[0], them.workers[0])}, "twice"),
        ({"whole": True, "returns": lambda them: None}, "NoneType, not Choice"),
        ({"whole": True, "returns": lambda them: (them.workers, Reason.PLUGIN)}, "tuple, not Choice"),
        ({"whole": True, "returns": lambda them: choosing(them.workers, Reason.PLUGIN, -1)}, "matched tokens"),
        ({"whole": True, "returns": lambda them: choosing(them.workers, Reason.PLUGIN, "7")}, "matched tokens"),
        ({"whole": True, "returns": lambda them: choosing(them.workers, Reason.PLUGIN, None, 5)}, "its terms"),
        ({"whole": True, "returns": lambda them: choosing(them.workers, Reason.PLUGIN, None, (("a",),))}, "its terms"),
        ({"whole": True, "returns": lambda them: choosing(them.workers, Reason.PLUGIN, None, (("a\n", 1),))}, "terms"),
        (
            {"whole": True, "returns": lambda them: choosing(them.workers, Reason.PLUGIN, None, (("a", math.nan),))},
            "te",
        ),
    ],
)
def test_a_choice_that_cannot_be_followed_is_counted_each_time_and_told_of_once(
    options: dict[str, Any], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = Made(**options)
    for _ in range(2):
        with caplog.at_level(logging.DEBUG), pytest.raises(PolicyFailed) as failed:
            made.choose()
        assert why in str(failed.value)
        assert failed.value.__cause__ is None
    assert made.failures == 2
    (record,) = caplog.records
    assert why in record.getMessage()
    assert "secret" not in caplog.text


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("no_needs", "`needs` of NoNeeds"),
        ("no_choice", "NoChoice has no method `choose`"),
        ("function", "must be a class, not function"),
        ("gone", "cannot be imported: AttributeError"),
        ("never_installed", "no installed package"),
    ],
)
def test_what_is_no_policy_is_said_with_its_name(name: str, why: str) -> None:
    with pytest.raises(PluginUnusable) as unusable:
        load_policy(name)
    assert str(unusable.value).startswith(f"{name}: ")
    assert why in str(unusable.value)


@pytest.mark.usefixtures("installed")
def test_options_that_a_policy_refuses_are_said_with_its_name() -> None:
    with pytest.raises(PluginUnusable, match="last: it cannot be made: ValueError: the option `wrong` is wrong"):
        Made(wrong=True)
