"""The parts of a router's decisions, joined as a router joins them, over a segment as the supervisor makes it."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from extproc.api.request import RoutingRequest
from extproc.config.admission import AdmissionSettings
from extproc.config.hooks import HookSettings
from extproc.config.kv_events import KvEventsSettings
from extproc.config.models import ModelSpec
from extproc.config.plugins import PluginGroup, PluginSpec
from extproc.config.policies import RoutingSettings
from extproc.config.recording import RecordingSettings
from extproc.config.settings import Settings
from extproc.errors import HookRefusal, InvalidRequest, Overloaded, PolicyFailed, StartupError
from extproc.fleet.view import FleetView
from extproc.index.sticky_map import StickyMap, bytes_for
from extproc.router.deciding import Deciding
from extproc.routing.decision import Decision
from extproc.shm.admission import AdmissionColumns
from extproc.shm.layout import Part
from extproc.shm.processes import ProcessTable
from extproc.shm.recording import RecordingOrder
from extproc.shm.segment import Segment
from extproc.telemetry.metrics import Metrics
from tests.support.directors import Published
from tests.support.fleets import worker
from tests.support.plugins import install
from tests.support.readers import Reading
from tests.support.recordings import order

SOURCE = '''
from extproc.policies.base import Choice, Needs, Reason
from extproc.routing.hooks import HookResult


class Last:
    """The last candidate; the option `wrong` says what is wrong with it."""

    needs = Needs.NOTHING

    def __init__(self, context):
        self._wrong = context.options.get("wrong", "")
        if self._wrong == "at once":
            raise ValueError

    def choose(self, request, candidates):
        return Choice(() if self._wrong else candidates.workers[-1:], Reason.PLUGIN)


class Refusing:
    needs_body = False

    def __init__(self, *, options):
        self._status = options["status"]

    def on_request(self, request):
        return HookResult(refuse_status=self._status)
'''

modules = itertools.count()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The policy ``last`` and the hook ``refusing``."""
    module = f"plugins_of_a_router_test_{next(modules)}"
    points = {PluginGroup.POLICIES: {"last": f"{module}:Last"}, PluginGroup.HOOKS: {"refusing": f"{module}:Refusing"}}
    monkeypatch.syspath_prepend(install(tmp_path, package="p", entry_points=points, modules={module: SOURCE}))


class Bench:
    """One router's decisions before workers 1 to 3."""

    def __init__(self, *, models: tuple[ModelSpec, ...] = (), wrong: str = "", **settings: Any) -> None:  # noqa: ANN401
        self.segment = Segment.create({Part.PREFIX_INDEX: 1 << 20, Part.STICKY_MAP: bytes_for(64)})
        StickyMap.prepare(self.segment.part(Part.STICKY_MAP))
        self.segment.close()
        self.metrics = Metrics()
        self.fleet = FleetView(Published(*[worker(index) for index in (1, 2, 3)], models=models))
        plugins = (PluginSpec("last", json.dumps({"wrong": wrong})), PluginSpec("refusing", '{"status": 418}'))
        self.deciding = Deciding(
            settings=Settings(plugins=plugins, **settings),
            segment=self.segment,
            row=ProcessTable(self.segment).row(0),
            fleet=self.fleet,
            prompts=Reading().reader,
            metrics=self.metrics,
        )

    def decide(self, model: str = "m", **headers: str) -> Decision:
        return self.send({"model": model}, headers)

    def send(self, fields: Mapping[str, object], headers: Mapping[str, str]) -> Decision:
        payload = json.dumps({"messages": [{"role": "user", "content": "x" * 200}], **fields}).encode()
        request = RoutingRequest(method="POST", path="/v1/chat/completions", headers=headers, payload=payload)
        director = self.deciding.director
        request.body_needed = director.needs_body(request.method, request.path)
        decision = director.decide(request)
        assert isinstance(decision, Decision)
        return decision

    def fallbacks(self, reason: str) -> float:
        return float(self.metrics.fallbacks.labels(reason)._value.get())

    def compared(self) -> dict[str, float]:
        samples = [sample for family in self.metrics.shadow_decisions.collect() for sample in family.samples]
        return {
            sample.labels["result"]: sample.value
            for sample in samples
            if sample.name == "extproc_shadow_decisions_total"
        }


def routing(policy: str = "round_robin", **settings: Any) -> RoutingSettings:  # noqa: ANN401
    return RoutingSettings(policy=policy, max_endpoints=1, **settings)


def test_while_cache_events_are_followed_no_request_changes_what_engines_report() -> None:
    asked = {"model": "m", "vllm_xargs": {"kv_cache_report_mode": "full"}}
    with pytest.raises(InvalidRequest, match="kv_cache_report_mode"):
        Bench(routing=routing("cache_aware")).send(asked, {})
    off = Bench(routing=routing("cache_aware"), kv_events=KvEventsSettings(mode="off"))
    assert off.send(asked, {}).policy == "cache_aware"


def test_a_policy_of_ours_decides() -> None:
    bench = Bench(routing=routing())
    assert [bench.decide().worker.id for _ in range(4)] == ["w1", "w2", "w3", "w1"]


@pytest.mark.usefixtures("installed")
def test_a_policy_of_an_installed_package_decides_everywhere_a_policy_is_named() -> None:
    decision = Bench(routing=routing("last")).decide()
    assert (decision.worker.id, decision.policy, decision.reason) == ("w3", "last", "plugin")
    by_header = Bench(routing=routing(override_policies=("last",)))
    name = {"x-extproc-policy": "last"}
    assert [by_header.decide(**name).policy, by_header.decide().policy] == ["last", "round_robin"]
    by_model = Bench(routing=routing(), models=(ModelSpec(name="m", policy="last"),))
    assert [by_model.decide("m").policy, by_model.decide("other").policy] == ["last", "round_robin"]


@pytest.mark.usefixtures("installed")
def test_a_choice_that_cannot_be_followed_fails_the_decision_and_is_counted() -> None:
    bench = Bench(routing=routing("last"), admission=AdmissionSettings(max_requests=1), wrong="each time")
    for _ in range(2):
        with pytest.raises(PolicyFailed):
            bench.decide()
    assert bench.fallbacks("policy_failed") == 2
    assert AdmissionColumns(bench.segment, process_slot=1).total() == (0, 0)


@pytest.mark.usefixtures("installed")
def test_the_shadow_decides_too_counts_its_own_failures_and_never_acts() -> None:
    bench = Bench(routing=routing(shadow_policy="last"))
    assert [bench.decide().worker.id for _ in range(3)] == ["w1", "w2", "w3"]
    assert bench.compared() == {"different": 2, "same": 1}
    failing = Bench(routing=routing(shadow_policy="last"), wrong="each time")
    assert failing.decide().worker.id == "w1"
    assert (failing.fallbacks("shadow_failed"), failing.fallbacks("policy_failed"), failing.compared()) == (1, 0, {})


def test_a_shadow_of_the_acting_policy_takes_turns_of_its_own() -> None:
    """On shared state each would take every second turn."""
    bench = Bench(routing=routing(shadow_policy="round_robin"))
    assert [bench.decide().worker.id for _ in range(3)] == ["w1", "w2", "w3"]
    assert bench.compared() == {"same": 3}


def test_the_keys_that_a_shadow_assigns_are_not_found_by_whoever_acts() -> None:
    bench = Bench(routing=routing(shadow_policy="manual", override_policies=("manual",)))
    key = {"x-extproc-routing-key": "a"}
    bench.decide(**key)
    assert bench.decide(**key, **{"x-extproc-policy": "manual"}).reason == "sticky_assigned"


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    "settings",
    [
        {"routing": routing("last")},
        {"routing": routing(shadow_policy="last")},
        {"routing": routing(override_policies=("last",))},
        {"routing": routing("gone")},
        {"routing": routing(), "hooks": HookSettings(enabled=("gone",))},
    ],
    ids=["default", "shadow", "allowed", "not installed", "hook"],
)
def test_a_plugin_that_cannot_be_used_is_no_start(settings: dict[str, Any]) -> None:
    with pytest.raises(StartupError, match=r"a plugin cannot be used: (last|gone): "):
        Bench(wrong="at once", **settings)


@pytest.mark.usefixtures("installed")
def test_a_models_policy_that_cannot_be_used_is_counted_and_the_default_decides() -> None:
    """Models come and go while the router runs."""
    bench = Bench(routing=routing(), models=(ModelSpec(name="m", policy="last"),), wrong="at once")
    assert [bench.decide().policy, bench.decide().policy] == ["round_robin", "round_robin"]
    assert bench.fallbacks("policy_unknown") == 2


@pytest.mark.usefixtures("installed")
def test_hooks_of_installed_packages_run() -> None:
    with pytest.raises(HookRefusal) as refused:
        Bench(routing=routing(), hooks=HookSettings(enabled=("refusing",), time_budget_secs=30)).decide()
    assert refused.value.status == 418


async def test_limits_hold_over_all_routers() -> None:
    bench = Bench(routing=routing(), admission=AdmissionSettings(max_requests=1, max_queued=0))
    AdmissionColumns(bench.segment, process_slot=1).add(0, requests=1, tokens=1)
    with pytest.raises(Overloaded):
        bench.decide()


def test_requests_are_recorded_where_that_is_allowed_and_nowhere_else(tmp_path: Path) -> None:
    allowed = Bench(routing=routing(), recording=RecordingSettings(directory=str(tmp_path)))
    default = Bench(routing=routing())
    for bench in (allowed, default):
        RecordingOrder(bench.segment).give(order())
        bench.decide().release()
    assert default.deciding.recorder is None
    assert allowed.deciding.recorder is not None
    (batch,) = allowed.deciding.recorder.take()
    (request,) = batch.requests
    assert (request.model, request.policy, request.worker) == (None, "round_robin", "w1")
    assert ProcessTable(allowed.segment).row(0).recording == order().number
