import pytest

from extproc.config.dataplane import EnvoySettings
from extproc.config.fleet import WorkerSpec
from extproc.config.models import ModelSpec
from extproc.config.policies import ConsistentHashingSettings, RoutingSettings
from extproc.config.policy_check import CREDENTIAL_HEADERS, find_policy_faults, find_policy_warnings
from extproc.config.settings import Settings

ONE, TWO = WorkerSpec(address="10.0.0.1:80"), WorkerSpec(address="10.0.0.2:80")


def keyed_by(*names: str, forwarded: tuple[str, ...] = ("x-extproc-*", "x-user")) -> Settings:
    return Settings(
        consistent_hashing=ConsistentHashingSettings(header_names=names),
        envoy=EnvoySettings(forwarded_headers=forwarded),
    )


def faults_of(settings: Settings) -> list[str]:
    return [str(fault) for fault in find_policy_faults(settings)]


@pytest.mark.parametrize("name", [*sorted(CREDENTIAL_HEADERS), "Authorization"])
def test_a_credential_is_never_a_key(name: str) -> None:
    assert faults_of(keyed_by("x-user", name)) == [
        f"consistent_hashing.header_names: '{name}' carries a credential, which is never a key"
    ]


@pytest.mark.parametrize("name", ["X-User", "x user", "", "x-*"])
def test_a_key_header_is_one_name_in_lower_case(name: str) -> None:
    assert faults_of(keyed_by(name)) == [
        f"consistent_hashing.header_names: must be names of headers in lower case; '{name}' is none"
    ]


def test_every_key_header_that_is_wrong_is_named() -> None:
    assert len(faults_of(keyed_by("cookie", "x-user", "A"))) == 2


def test_a_key_header_that_the_data_plane_does_not_show_is_likely_a_mistake() -> None:
    assert find_policy_warnings(keyed_by("x-user", "x-extproc-session")) == []
    assert [str(warning) for warning in find_policy_warnings(keyed_by("x-users", "x-extproc"))] == [
        f"consistent_hashing.header_names: '{name}' is not among `envoy.forwarded_headers`, so Envoy does not show it "
        "to us"
        for name in ("x-users", "x-extproc")
    ]


@pytest.mark.parametrize(("load_factor", "fault"), [(0, False), (0.01, True), (0.99, True), (1, False), (2, False)])
def test_a_bound_below_the_mean_would_leave_nobody(load_factor: float, fault: bool) -> None:
    settings = Settings(consistent_hashing=ConsistentHashingSettings(load_factor=load_factor))
    assert faults_of(settings) == (
        ["consistent_hashing.load_factor: must be 0 or at least 1: some worker is always at the mean"] if fault else []
    )


def test_passthrough_is_for_one_worker() -> None:
    routing = RoutingSettings(policy="passthrough")
    assert faults_of(Settings(routing=routing, workers=(ONE,))) == []
    (fault,) = find_policy_faults(Settings(routing=routing, workers=(ONE, TWO)))
    assert str(fault) == "routing.policy: `passthrough` is for one worker, and there are 2; name another policy"
    assert fault.involves == ("workers",)


def test_a_worker_that_drains_may_stand_beside_its_successor() -> None:
    draining = WorkerSpec(address="10.0.0.2:80", draining=True)
    assert faults_of(Settings(routing=RoutingSettings(policy="passthrough"), workers=(ONE, draining))) == []


def test_a_model_that_is_passed_through_has_one_worker() -> None:
    workers = (
        WorkerSpec(address="10.0.0.1:80", models=("a",)),
        WorkerSpec(address="10.0.0.2:80", models=("b", "b-adapter")),
        WorkerSpec(address="10.0.0.3:80", models=("b-alias",)),
    )
    models = (
        ModelSpec(name="a", policy="passthrough"),
        ModelSpec(name="b", aliases=("b-alias",), policy="passthrough"),
        ModelSpec(name="c", policy="random"),
    )
    expected = ["models[1].policy: `passthrough` is for one worker, and there are 2; name another policy"]
    assert faults_of(Settings(models=models, workers=workers)) == expected
    assert len(faults_of(Settings(models=models, workers=(*workers, TWO)))) == 2, "one that serves any model counts"
