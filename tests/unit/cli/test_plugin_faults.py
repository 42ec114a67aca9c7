"""Plugins that cannot be imported are faults of the settings that name them, found without harm to who asks."""

import dataclasses
import itertools
import os
import sys
from pathlib import Path

import pytest

from extproc.cli.plugin_faults import find_plugin_faults, find_plugin_faults_in_child
from extproc.config.discovery import DiscoverySettings
from extproc.config.hooks import HookSettings
from extproc.config.models import ModelSpec
from extproc.config.plugins import PluginGroup
from extproc.config.policies import RoutingSettings
from extproc.config.settings import Settings
from tests.support.plugins import install

GOOD = """
from extproc.policies.base import Needs

print("a plugin that talks when it is imported")


class Policy:
    needs = Needs.NOTHING

    def choose(self, request, candidates): ...


class Hook:
    needs_body = False

    def on_request(self, request): ...


def source(*, options, metrics): ...
"""
EXITS = "import os\n\nos._exit(7)\n"
HANGS = "import time\n\ntime.sleep(3600)\n"

EVERYWHERE = Settings(
    routing=RoutingSettings(policy="mine", shadow_policy="mine", override_policies=("random", "mine")),
    models=(ModelSpec(name="a", policy="round_robin"), ModelSpec(name="b", policy="mine")),
    discovery=DiscoverySettings(plugins=("mine",)),
    hooks=HookSettings(enabled=("mine",)),
)
PATHS = [
    "routing.policy",
    "routing.shadow_policy",
    "routing.override_policies[1]",
    "models[1].policy",
    "discovery.plugins[0]",
    "hooks.enabled[0]",
]

numbers = itertools.count()


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Installer":
    return Installer(tmp_path, monkeypatch)


class Installer:
    """Installs a package whose plugins of every kind are called ``mine``, for this process and its children."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._directory = directory
        self._patch = monkeypatch

    def __call__(self, source: str) -> None:
        module = f"plugins_of_a_fault_test_{next(numbers)}"
        site = install(
            self._directory,
            package="p",
            entry_points={
                PluginGroup.POLICIES: {"mine": f"{module}:Policy"},
                PluginGroup.HOOKS: {"mine": f"{module}:Hook"},
                PluginGroup.DISCOVERY: {"mine": f"{module}:source"},
            },
            modules={module: source},
        )
        self._patch.syspath_prepend(site)
        self._patch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))


def test_plugins_that_can_be_imported_are_no_faults(put: Installer) -> None:
    put(GOOD)
    assert find_plugin_faults(EVERYWHERE) == []
    assert find_plugin_faults_in_child(EVERYWHERE) == []


def test_where_no_plugin_is_named_no_process_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    assert find_plugin_faults_in_child(Settings()) == []


def test_every_setting_that_names_one_that_cannot_be_imported_is_listed(put: Installer) -> None:
    put("import no_such_module_of_a_test")
    faults = find_plugin_faults(EVERYWHERE)
    assert [fault.partition(": ")[0] for fault in faults] == PATHS
    assert all("No module named 'no_such_module_of_a_test'" in fault for fault in faults)
    assert find_plugin_faults_in_child(EVERYWHERE) == faults


def test_what_is_not_what_its_kind_must_be_is_a_fault(put: Installer) -> None:
    put("class Policy: ...\n\n\nclass Hook: ...\n\n\nsource = 5\n")
    assert [fault.partition(": ")[0] for fault in find_plugin_faults(EVERYWHERE)] == PATHS


def test_the_child_imports_nothing_into_the_process_that_asks(put: Installer) -> None:
    put(GOOD)
    find_plugin_faults_in_child(EVERYWHERE)
    assert f"plugins_of_a_fault_test_{next(numbers) - 1}" not in sys.modules


def test_one_that_ends_the_process_when_it_is_imported_is_a_fault(put: Installer) -> None:
    put(EXITS)
    settings = dataclasses.replace(Settings(), hooks=HookSettings(enabled=("mine",)))
    (fault,) = find_plugin_faults_in_child(settings)
    assert fault == "hooks.enabled[0]: importing the plugins ended the process, with status 7"


def test_one_whose_import_does_not_end_is_a_fault(put: Installer) -> None:
    put(HANGS)
    settings = dataclasses.replace(Settings(), hooks=HookSettings(enabled=("mine",)))
    (fault,) = find_plugin_faults_in_child(settings, timeout_secs=2)
    assert fault == "hooks.enabled[0]: importing the plugins takes longer than 2 s"
