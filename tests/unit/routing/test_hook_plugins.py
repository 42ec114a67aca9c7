import itertools
from pathlib import Path

import pytest

from extproc.config.plugins import PluginGroup, PluginSpec
from extproc.errors import PluginUnusable
from extproc.routing.hook_plugins import load_hook, make_hooks
from tests.support.plugins import install

SOURCE = """
class First:
    needs_body = True

    def __init__(self, *, options):
        self.options = options
        if "wrong" in options:
            raise ValueError("the option `wrong` is wrong")

    def on_request(self, request): ...


class Second(First):
    needs_body = False


class NoAnswer:
    needs_body = False


class NoNeeds:
    def on_request(self, request): ...


class NoOptions:
    needs_body = False

    def on_request(self, request): ...
"""

modules = itertools.count()


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = f"hooks_of_a_test_{next(modules)}"
    names = {"first": "First", "second": "Second", "no_answer": "NoAnswer", "no_needs": "NoNeeds", "gone": "Gone"}
    points = {PluginGroup.HOOKS: {name: f"{module}:{kind}" for name, kind in (names | {"bare": "NoOptions"}).items()}}
    monkeypatch.syspath_prepend(install(tmp_path, package="p", entry_points=points, modules={module: SOURCE}))


def test_hooks_are_made_in_order_each_with_its_options() -> None:
    hooks = make_hooks(("second", "first"), (PluginSpec("first", '{"a": 1}'), PluginSpec("other", '{"b": 2}')))
    assert [(name, hook.needs_body) for name, hook in hooks] == [("second", False), ("first", True)]
    assert [dict(getattr(hook, "options")) for _, hook in hooks] == [{}, {"a": 1}]  # noqa: B009 - a plugin's own


@pytest.mark.parametrize("name", ["no_answer", "no_needs", "gone", "never_installed"])
def test_what_is_no_hook_is_said_with_its_name(name: str) -> None:
    with pytest.raises(PluginUnusable, match=f"^{name}: "):
        load_hook(name)


@pytest.mark.parametrize(("name", "why"), [("first", "ValueError: the option `wrong` is wrong"), ("bare", "TypeError")])
def test_one_that_cannot_be_made_is_said_with_its_name(name: str, why: str) -> None:
    with pytest.raises(PluginUnusable, match=f"^{name}: cannot be made: {why}"):
        make_hooks((name,), (PluginSpec(name, '{"wrong": true}'),))
