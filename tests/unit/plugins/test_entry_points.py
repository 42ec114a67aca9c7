import sys
from pathlib import Path

import pytest

from extproc.errors import PluginUnusable
from extproc.plugins.entry_points import load, names
from tests.support.plugins import install

GROUP = "extproc.kind_of_a_test"
MODULE = """
import sys

LOADED = True
sys.modules["entry_point_was_loaded"] = sys
"""


def put(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    package: str,
    points: dict[str, str],
    modules: dict[str, str] | None = None,
) -> None:
    monkeypatch.syspath_prepend(
        install(directory / package, package=package, entry_points={GROUP: points}, modules=modules or {})
    )


def test_names_are_those_of_the_group_and_nothing_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {"names_of_a_test": MODULE}
    put(tmp_path, monkeypatch, package="one", points={"b": "names_of_a_test:LOADED", "a": "gone:x"}, modules=modules)
    put(tmp_path, monkeypatch, package="two", points={"c": "gone:x", "a": "gone:x"})
    assert names(GROUP) == ("a", "b", "c")
    assert names("extproc.no_such_kind") == ()
    assert "names_of_a_test" not in sys.modules


def test_loads_what_the_entry_point_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {"loaded_of_a_test": "class Thing:\n    part = 7\n"}
    points = {"thing": "loaded_of_a_test:Thing", "part": "loaded_of_a_test:Thing.part", "module": "loaded_of_a_test"}
    put(tmp_path, monkeypatch, package="one", points=points, modules=modules)
    assert load(GROUP, "thing").__name__ == "Thing"
    assert load(GROUP, "part") == 7
    assert load(GROUP, "module") is sys.modules["loaded_of_a_test"]


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("raise ValueError('oh')", "broken_of_a_test:Thing of one cannot be imported: ValueError: oh"),
        ("import no_such_module_of_a_test", "ModuleNotFoundError: No module named 'no_such_module_of_a_test'"),
        ("def f(:", "SyntaxError"),
        ("import sys\nsys.exit(3)", "SystemExit: 3"),
        ("x = 1", "AttributeError"),
    ],
)
def test_what_cannot_be_imported_says_why_and_whose_it_is(
    module: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = {"thing": "broken_of_a_test:Thing"}
    monkeypatch.delitem(sys.modules, "broken_of_a_test", raising=False)
    put(tmp_path, monkeypatch, package="one", points=points, modules={"broken_of_a_test": module})
    with pytest.raises(PluginUnusable) as caught:
        load(GROUP, "thing")
    assert words in str(caught.value)
    assert str(caught.value).startswith("thing: ")
    sys.modules.pop("broken_of_a_test", None)


def test_one_that_is_not_there_says_where_it_was_looked_for() -> None:
    with pytest.raises(PluginUnusable, match=rf"^thing: no installed package .* in the group `{GROUP}`$"):
        load(GROUP, "thing")


def test_two_packages_that_mean_different_things_by_a_name_are_not_chosen_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, monkeypatch, package="one", points={"x": "json:loads", "same": "json:loads"})
    put(tmp_path, monkeypatch, package="two", points={"x": "json:dumps", "same": "json:loads"})
    with pytest.raises(PluginUnusable, match=r"several packages .*: one \(json:loads\) and two \(json:dumps\)"):
        load(GROUP, "x")
    assert load(GROUP, "same")("5") == 5
