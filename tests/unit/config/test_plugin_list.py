from collections.abc import Collection

import pytest

from extproc.config.plugin_list import MAX_PLUGINS, find_plugin_faults, read_plugins, unknown_plugin
from extproc.config.plugins import PluginGroup, PluginSpec


def faults_of(*items: object) -> list[str]:
    return [str(fault) for fault in read_plugins(list(items))[1]]


def test_reads_a_list() -> None:
    assert read_plugins([{"name": "a"}, {"name": "b.c_d-1", "options": ' {"x": 1} '}]) == (
        (PluginSpec("a"), PluginSpec("b.c_d-1", ' {"x": 1} ')),
        [],
    )


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (None, "plugins: must be a list, not nothing"),
        ([{}] * (MAX_PLUGINS + 1), "plugins: must have at most 64 entries, not 65"),
    ],
)
def test_refuses_what_is_no_list_of_bearable_length(value: object, fault: str) -> None:
    plugins, faults = read_plugins(value)
    assert (plugins, [str(found) for found in faults]) == ((), [fault])


def test_every_fault_has_its_path() -> None:
    assert faults_of(
        "a", {}, {"name": "a b"}, {"name": "x" * 65}, {"name": "a", "option": "{}"}, {"name": "b"}, {"name": "b"}
    ) == [
        "plugins[0]: must be a mapping with a `name`, not 'a'",
        "plugins[4].option: unknown key - did you mean `options`?",
        "plugins[1].name: is required: the name of an entry point",
        "plugins[2].name: must be 1 to 64 letters, digits and `. _ -`",
        "plugins[3].name: must be 1 to 64 letters, digits and `. _ -`",
        "plugins[6].name: is also that of plugins[5]",
    ]


@pytest.mark.parametrize("options", ["[]", "5", "null", "{", "{a: 1}", "token=hunter2"])
def test_options_are_a_json_object_and_are_not_shown(options: str) -> None:
    assert faults_of({"name": "a", "options": options}) == [
        'plugins[0].options: must be a JSON object as text, such as `{"a": 1}`'
    ]


def test_options_are_text() -> None:
    (fault,) = faults_of({"name": "a", "options": {"x": 1}})
    assert fault == "plugins[0].options: must be text, not a mapping"


def test_entries_made_in_code_are_checked_alike() -> None:
    assert find_plugin_faults((PluginSpec("a"), PluginSpec("b", "{}"))) == []
    assert len(find_plugin_faults((PluginSpec("a"), PluginSpec("a", "[")))) == 2
    assert len(find_plugin_faults((PluginSpec(),) * (MAX_PLUGINS + 1))) == 1


def installed(group: str) -> Collection[str]:
    return {PluginGroup.POLICIES: ("fair",), PluginGroup.DISCOVERY: ("consul",), PluginGroup.HOOKS: ("fair",)}[
        PluginGroup(group)
    ]


def test_options_for_a_plugin_of_any_kind_are_good_and_for_none_are_a_fault() -> None:
    names = ["fair", "consl", "consul"]
    unknown = "unknown plugin 'consl', known are `consul`, `fair` - did you mean `consul`?"
    _, faults = read_plugins(["no mapping", *({"name": name} for name in names)], plugin_names=installed)
    assert [str(fault) for fault in faults][1:] == [f"plugins[2].name: {unknown}"]
    faults = find_plugin_faults(tuple(map(PluginSpec, names)), plugin_names=installed)
    assert [str(fault) for fault in faults] == [f"plugins[1].name: {unknown}"]


def test_without_entries_no_package_is_asked() -> None:
    def nobody(group: str) -> Collection[str]:
        raise AssertionError(group)

    assert find_plugin_faults((), plugin_names=nobody) == read_plugins([], plugin_names=nobody)[1] == []


def test_says_when_nothing_is_installed() -> None:
    assert unknown_plugin("x", ()) == "unknown plugin 'x', none is installed"
