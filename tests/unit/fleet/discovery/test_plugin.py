import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from extproc.config.fleet import WorkerSpec
from extproc.config.load import Lists
from extproc.config.models import ModelSpec
from extproc.config.plugins import PluginGroup
from extproc.errors import PluginUnusable
from extproc.fleet.discovery.plugin import PluginSource, load_factory
from extproc.telemetry.metrics import DiscoveryMetrics
from tests.support.discovery import counted, watching
from tests.support.plugins import install
from tests.support.workers_http import until

MODULE = """
import asyncio

MADE = []
NOT_CALLABLE = 5


class Source:
    def __init__(self, *, options, metrics):
        MADE.append((options, metrics))
        self.reports = options.get("reports", ())

    async def watch(self, on_lists):
        from tests.unit.fleet.discovery.test_plugin import LISTS
        for name in self.reports:
            on_lists(LISTS[name])
        await asyncio.Event().wait()


class FromAThread(Source):
    async def watch(self, on_lists):
        from tests.unit.fleet.discovery.test_plugin import LISTS
        await asyncio.to_thread(on_lists, LISTS["one"])


class Ending(Source):
    async def watch(self, on_lists):
        return


def no_source(*, options, metrics):
    return object()


def particular(*, options, metrics):
    raise ValueError("the option `token` is missing")
"""
ONE, TWO = WorkerSpec(address="10.0.0.1:80", models=("m",)), WorkerSpec(address="10.0.0.2:80")
LISTS: Mapping[str, object] = {
    "one": Lists(workers=(ONE,)),
    "two": Lists(workers=(ONE, TWO), models=(ModelSpec(name="m"),)),
    "as_lists": Lists(workers=[TWO]),  # type: ignore[arg-type]
    "twice": Lists(workers=(ONE, ONE)),
    "a_name": Lists(workers=(WorkerSpec(address="host:80"),)),
    "not_text": Lists(workers=(WorkerSpec(address=80),)),  # type: ignore[arg-type]
    "no_lists": [ONE],
    "no_data": Lists(workers=(object(),)),  # type: ignore[arg-type]
    "models": Lists(models=(ModelSpec(name=""),)),
    "nothing": None,
}


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"good": "Source", "thread": "FromAThread", "number": "NOT_CALLABLE"}
    names |= {name: name for name in ("no_source", "particular", "missing")}
    names["ending"] = "Ending"
    points = {name: f"discovery_plugin_of_a_test:{value}" for name, value in names.items()}
    monkeypatch.syspath_prepend(
        install(
            tmp_path,
            package="p",
            entry_points={PluginGroup.DISCOVERY: points},
            modules={"discovery_plugin_of_a_test": MODULE},
        )
    )


def plugin(name: str, options: Mapping[str, Any], metrics: DiscoveryMetrics | None = None) -> PluginSource:
    return PluginSource(name=f"plugin:{name}", plugin=name, options=options, metrics=metrics or DiscoveryMetrics())


def test_a_plugin_gets_its_options_and_the_metrics() -> None:
    metrics = DiscoveryMetrics()
    plugin("good", {"a": [1]}, metrics)
    module = sys.modules[load_factory("good").__module__]
    assert module.MADE[-1] == ({"a": [1]}, metrics)


async def test_lists_in_order_are_passed_on_as_records_of_ours() -> None:
    async with watching(plugin("good", {"reports": ["one", "two", "as_lists"]})) as reports:
        await until(lambda: len(reports.lists) == 3)
        assert reports.lists == [LISTS["one"], LISTS["two"], Lists(workers=(TWO,))]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("twice", "workers[1].address: is also that of workers[0]"),
        ("a_name", "workers[0].address: must be `IP:PORT` with an IP address, not a name; is 'host:80'"),
        ("not_text", "Expected `str`, got `int`"),
        ("no_lists", "Expected"),
        ("no_data", "unsupported"),
        ("models", "models[0].name: is required: the `model` of requests"),
        ("nothing", "got `null`"),
    ],
)
async def test_lists_that_are_not_in_order_are_refused_counted_and_told(
    bad: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = DiscoveryMetrics()
    async with watching(plugin("good", {"reports": ["one", bad, "two"]}, metrics)) as reports:
        await until(lambda: len(reports.lists) == 2)
        assert reports.lists == [LISTS["one"], LISTS["two"]]
    assert counted(metrics.faults, source="plugin:good", reason="invalid") == 1
    assert words in caplog.text


async def test_lists_from_a_thread_are_refused_with_a_word_on_it() -> None:
    reports: list[Lists] = []
    with pytest.raises(RuntimeError, match="event loop"):
        await plugin("thread", {}).watch(reports.append)
    assert reports == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("number", "must be a class or a function that makes a source, not int"),
        ("no_source", "what it makes, object, has no method `watch`"),
        ("missing", "cannot be imported: AttributeError"),
        ("unknown", "no installed package has an entry point of that name in the group `extproc.discovery`"),
    ],
)
def test_what_is_no_source_cannot_be_used_and_says_why(name: str, words: str) -> None:
    with pytest.raises(PluginUnusable) as caught:
        plugin(name, {})
    assert words in str(caught.value)
    assert name in str(caught.value)


def test_what_making_it_raises_is_not_hidden() -> None:
    with pytest.raises(ValueError, match="`token` is missing"):
        plugin("particular", {})


async def test_ends_with_the_source_of_the_plugin() -> None:
    """That is a fault, which RestartingSource sees."""
    ended = False
    try:
        await plugin("ending", {}).watch(lambda _: None)
    finally:
        ended = True
    assert ended
