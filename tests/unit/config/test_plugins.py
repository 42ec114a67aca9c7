import pytest

from extproc.config.catalogue import fields_of
from extproc.config.plugins import PluginGroup, PluginSpec, no_plugins, options_of


def test_each_kind_of_plugin_has_a_group() -> None:
    assert list(PluginGroup) == ["extproc.policies", "extproc.discovery", "extproc.hooks"]


def test_options_are_those_of_the_entry() -> None:
    plugins = (PluginSpec("a", '{"x": [1, {"y": null}]}'), PluginSpec("b"))
    assert options_of(plugins, "a") == {"x": [1, {"y": None}]}
    assert options_of(plugins, "b") == options_of(plugins, "c") == {}


def test_options_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        options_of((), "a")["x"] = 1  # type: ignore[index]


def test_without_a_look_nothing_is_installed() -> None:
    assert no_plugins(PluginGroup.DISCOVERY) == ()


def test_every_setting_explains_itself_in_a_sentence() -> None:
    assert [name for name, entry in fields_of(PluginSpec).items() if not entry.declaration.help.endswith(".")] == []
