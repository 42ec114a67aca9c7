import sys
from pathlib import Path

import pytest

from extproc.config.plugins import PluginGroup
from extproc.errors import PluginUnusable
from extproc.policies.base import Needs, Reason
from extproc.policies.plugin import PluginPolicy, load_policy
from tests.support.fleets import Shared, candidates, request_with
from tests.support.plugins import install

MODULE = "policies_of_a_test"
SOURCE = '''
import msgspec
from types import SimpleNamespace
from extproc.policies.base import Choice, Needs, Reason


class Some:
    """Chooses those at the positions that its options name."""

    name = "of its own"
    needs = Needs.HEADERS

    def __init__(self, context):
        self._positions = context.options["positions"]

    def choose(self, request, candidates):
        workers = tuple(candidates[position] for position in self._positions)
        return Choice(workers, Reason.RANDOM, 32, (("wait", 0.5),))


class Listing(Some):
    """Returns a list, in a type of its own."""

    needs = Needs.PREFIXES

    def choose(self, request, candidates):
        workers = [candidates[position] for position in self._positions]
        return SimpleNamespace(workers=workers, matched_tokens=None, terms=())


class Strangers(Some):
    """Makes up workers, some of whom are like candidates."""

    def choose(self, request, candidates):
        worker = candidates[0]
        return Choice((worker, msgspec.structs.replace(worker, address="10.9.9.9:1")), Reason.RANDOM)


class Faithful(Some):
    """Stays with the first worker that it ever got."""

    first = None

    def choose(self, request, candidates):
        self.first = self.first or candidates[0]
        return Choice((self.first,), Reason.RANDOM)


class NoNeeds:
    def choose(self, request, candidates): ...


class OddNeeds(NoNeeds):
    needs = 3


class NoChoose:
    needs = Needs.NOTHING


class Broken(Some):
    def __init__(self, context):
        raise KeyError("no positions")
'''
CLASSES = ("Some", "Listing", "Strangers", "Faithful", "NoNeeds", "OddNeeds", "NoChoose", "Broken")


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = {name.lower(): f"{MODULE}:{name}" for name in CLASSES}
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    monkeypatch.syspath_prepend(
        install(tmp_path, package="one", entry_points={PluginGroup.POLICIES: points}, modules={MODULE: SOURCE})
    )


def made(name: str, *positions: int) -> PluginPolicy:
    return PluginPolicy(Shared().context(options={"positions": positions}), name=name)


def test_its_choice_is_taken_as_it_is_under_a_reason_of_its_own() -> None:
    everyone = candidates(4)
    choice = made("some", 2, 0).choose(request_with(), everyone)
    assert choice.workers == (everyone[2], everyone[0])
    assert choice.reason is Reason.PLUGIN
    assert (choice.matched_tokens, choice.terms) == (32, (("wait", 0.5),))


def test_any_sequence_of_candidates_will_do() -> None:
    everyone = candidates(4)
    choice = made("listing", 3, 1).choose(request_with(), everyone)
    assert choice == ((everyone[3], everyone[1]), Reason.PLUGIN, None, ())


def test_each_goes_by_the_name_of_its_entry_point_and_has_needs_of_its_own() -> None:
    one, other = made("some"), made("listing")
    assert (one.name, one.needs) == ("some", Needs.HEADERS)
    assert (other.name, other.needs) == ("listing", Needs.PREFIXES)


@pytest.mark.parametrize(
    ("name", "positions"),
    [("some", ()), ("some", (1, 1)), ("some", (0, 1, 0)), ("listing", ()), ("listing", (2, 2)), ("strangers", ())],
    ids=["nobody", "one twice", "one twice apart", "empty list", "list with one twice", "somebody else"],
)
def test_a_choice_of_nobody_of_one_twice_or_of_somebody_else_is_refused(name: str, positions: tuple[int, ...]) -> None:
    policy = made(name, *positions)
    with pytest.raises(ValueError, match=f"^the policy {name} did not choose from the candidates$"):
        policy.choose(request_with(), candidates(4))


def test_one_that_was_a_candidate_and_is_none_any_more_is_refused() -> None:
    policy, everyone = made("faithful"), candidates(4)
    assert policy.choose(request_with(), everyone).workers == (everyone[0],)
    with pytest.raises(ValueError, match="did not choose from the candidates"):
        policy.choose(request_with(), everyone.only([1, 2]))


@pytest.mark.parametrize("name", ["noneeds", "oddneeds", "nochoose"])
def test_a_class_that_is_no_policy_says_so(name: str) -> None:
    with pytest.raises(PluginUnusable, match=f"^{name}: is no policy: it has no `needs` or no `choose`$"):
        load_policy(name)
    with pytest.raises(PluginUnusable, match="is no policy"):
        made(name)


def test_one_that_cannot_be_made_says_why() -> None:
    with pytest.raises(PluginUnusable, match=r"^broken: cannot be made: KeyError: 'no positions'$"):
        made("broken")
    with pytest.raises(PluginUnusable, match=r"^missing: no installed package .* in the group `extproc.policies`$"):
        made("missing")
