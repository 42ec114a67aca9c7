import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extproc.config.catalogue import entries, groups
from extproc.config.fleet import WorkerSpec
from extproc.config.load import Lists, load_checked_settings, load_lists, load_settings
from extproc.config.models import ModelSpec
from extproc.config.plugins import PluginSpec
from extproc.config.settings import Settings
from extproc.errors import ConfigurationError
from tests.support.settings import all_settings, as_yaml

POLICIES = ("expected_latency", "random", "round_robin")
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write the configuration file and return its path."""

    def write_file(text: str) -> Path:
        path = tmp_path / "extproc.yaml"
        path.write_text(text)
        return path

    return write_file


def faults_of(call: Callable[[], object]) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        call()
    return caught.value.faults


def test_without_any_source_everything_has_its_default() -> None:
    assert load_settings(None, environ={}, flags={}) == Settings()


@pytest.mark.parametrize("text", ["", "server:\nadmin: {}\n"])
def test_an_empty_file_and_empty_groups_have_the_defaults(write: Write, text: str) -> None:
    assert load_settings(write(text), environ={}, flags={}) == Settings()


@pytest.mark.parametrize(
    ("file", "environ", "flags", "expected"),
    [
        (False, False, False, 20_000),
        (True, False, False, 1),
        (True, True, False, 2),
        (True, True, True, 3),
        (False, True, False, 2),
        (True, False, True, 3),
    ],
)
def test_each_source_overrides_the_one_before(
    write: Write, file: bool, environ: bool, flags: bool, expected: int
) -> None:
    loaded = load_settings(
        write("server: {max_streams: 1}") if file else None,
        environ={"EXTPROC_SERVER_MAX_STREAMS": "2"} if environ else {},
        flags={"server.max_streams": "3"} if flags else {},
    )
    assert loaded.server.max_streams == expected


def test_reads_groups_and_lists_of_a_file(write: Write) -> None:
    path = write(
        "server: {tls: off, decision_timeout_secs: 1}\n"
        "workers: [{address: '10.0.0.1:8000', models: [m]}]\n"
        "models: [{name: m, aliases: [n], block_size: 32}]\n"
        "plugins: [{name: p, options: '{}'}]\n"
    )
    loaded = load_settings(path, environ={}, flags={})
    assert loaded.server == replace(Settings().server, decision_timeout_secs=1.0)
    assert type(loaded.server.decision_timeout_secs) is float
    assert loaded.workers == (WorkerSpec(address="10.0.0.1:8000", models=("m",)),)
    assert loaded.models == (ModelSpec(name="m", aliases=("n",), block_size=32),)
    assert loaded.plugins == (PluginSpec("p", "{}"),)


def test_every_fault_of_every_source_is_reported_with_its_place(write: Write) -> None:
    path = write(
        """
        server: {max_streams: "5", max_stream: 5, max_streams: many}
        policy: random
        admin: here
        envoy: {message_timeout_secs: 1}
        routing: {policy: best}
        workers: [{address: host:1}, 3]
        models: [{name: m, block_size: 0}]
        plugins: [{name: p, options: "["}, {name: q}]
        discovery: {dns_names: [vllm, "a:80"], plugins: [consl], file: /missing}
        tokens: {cache_bytes: 1024}
        """
    )
    environ = {
        "EXTPROC_SERVER_MAX_BODY_BYTES": "32 MiB",
        "EXTPROC_SERVER_MAX_BODY": "1",
        "EXTPROC_WORKERS": "10.0.0.1:80",
        "EXTPROC_MODELS": "m",
        "EXTPROC_PLUGINS": "p",
        "MODELS": "not ours",
        "EXTPROC_ADMIN_ADDRESS": "unix:/nowhere",
        "EXTPROC_HOME": "not ours",
        "PATH": "not ours",
    }
    flags = {"server.max_connections": "0", "server.nothing": "1"}
    found = faults_of(
        lambda: load_checked_settings(
            path, environ=environ, flags=flags, policies=POLICIES, plugin_names=lambda _: ("consul", "p")
        )
    )
    assert sorted(found) == sorted(
        [
            f"{path}: line 2, column 51: duplicate key `max_streams`",
            "server.max_stream: unknown key - did you mean `max_streams`?",
            "server.max_streams: must be a whole number, not 'many'",
            "policy: unknown key - did you mean `routing.policy`?",
            "admin: must be a mapping of settings, not 'here'",
            (
                "envoy.message_timeout_secs: must be at least 6: 2 times `server.decision_timeout_secs` "
                "and `admission.max_wait_secs`"
            ),
            (
                "routing.policy: unknown policy 'best', known are `consul`, `expected_latency`, `p`, `random`, "
                "`round_robin`"
            ),
            "workers[0].address: must be `IP:PORT` with an IP address, not a name; is 'host:1'",
            "workers[1]: must be a mapping with an `address`, not 3",
            "EXTPROC_SERVER_MAX_BODY_BYTES (server.max_body_bytes): must be a whole number, not '32 MiB'",
            "EXTPROC_SERVER_MAX_BODY: unknown setting - did you mean `EXTPROC_SERVER_MAX_BODY_BYTES`?",
            "models[0].block_size: must be at least 1 tokens, not 0",
            "tokens.cache_bytes: must be 0 or at least 16 MiB (16,777,216)",
            "EXTPROC_WORKERS: the workers are set in the file only",
            'plugins[0].options: must be a JSON object as text, such as `{"a": 1}`',
            "plugins[1].name: unknown plugin 'q', known are `consul`, `p`",
            "discovery.dns_names[0]: must be `HOST:PORT` with the name of a host, or `srv:NAME`; is 'vllm'",
            "discovery.plugins[0]: unknown plugin 'consl', known are `consul`, `p` - did you mean `consul`?",
            "discovery.file: '/missing' is not a file that can be read",
            "EXTPROC_PLUGINS: the plugins are set in the file only",
            "EXTPROC_MODELS: the models are set in the file only",
            "EXTPROC_ADMIN_ADDRESS (admin.address): must be `HOST:PORT`, not 'unix:/nowhere'",
            "--server.max-connections: must be at least 1, not 0",
            "server.nothing: unknown setting",
        ]
    )


def test_what_depends_on_an_unreadable_setting_is_not_judged(write: Write) -> None:
    """The default stands in for the unreadable value, and no fault may come from that."""
    path = write("server: {max_body_bytes: x, max_message_bytes: 4096}")
    found = faults_of(lambda: load_checked_settings(path, environ={}, flags={}, policies=POLICIES))
    assert found == ["server.max_body_bytes: must be a whole number, not 'x'"]


def test_a_file_that_cannot_be_read_hides_no_fault_of_the_others(tmp_path: Path) -> None:
    path = tmp_path / "missing.yaml"
    environ = {"EXTPROC_SUPERVISOR_ROUTERS": "two"}
    found = faults_of(lambda: load_checked_settings(path, environ=environ, flags={}, policies=POLICIES))
    assert found == [
        f"{path}: cannot be read: {os.strerror(2)}",
        "EXTPROC_SUPERVISOR_ROUTERS (supervisor.routers): must be a whole number, not 'two'",
    ]


def test_a_fault_in_a_broken_file_has_its_line_and_column(write: Write) -> None:
    path = write("server:\n  tls: [\n")
    assert faults_of(lambda: load_settings(path, environ={}, flags={})) == [
        f"{path}: line 3, column 1: expected the node content, but found '<stream end>'"
    ]


def test_a_good_configuration_passes_all_checks(write: Write) -> None:
    loaded = load_checked_settings(
        write("workers: [{address: '10.0.0.1:80'}]"), environ={}, flags={}, policies=POLICIES
    )
    assert loaded == Settings(workers=(WorkerSpec(address="10.0.0.1:80"),))


def test_a_live_reload_reads_only_the_lists(write: Write) -> None:
    path = write(
        "server: {max_streams: nonsense}\nworkers: [{address: '10.0.0.1:80', draining: true}]\nmodels: [{name: m}]\n"
        "plugins: nonsense\n"
    )
    assert load_lists(path) == Lists(
        workers=(WorkerSpec(address="10.0.0.1:80", draining=True),), models=(ModelSpec(name="m"),)
    )


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("", ["workers: is missing; write `workers: []` for none"]),
        ("server: {}\n", ["workers: is missing; write `workers: []` for none"]),
        ("workers:\n", ["workers: must be a list, not nothing"]),
        (
            "worker: []\n",
            [
                "worker: unknown key - did you mean `workers`?",
                "workers: is missing; write `workers: []` for none",
            ],
        ),
        (
            "workers: [{address: a}, {address: '1.2.3.4:5', id: ' '}]",
            [
                "workers[0].address: must be `IP:PORT` with an IP address, not a name; is 'a'",
                "workers[1].id: must be 1 to 128 letters, digits and `. _ : / -`",
            ],
        ),
        ("workers: []\nmodel: []\n", ["model: unknown key - did you mean `models`?"]),
        ("workers: []\nmodels:\n", ["models: must be a list, not nothing"]),
        ("workers: []\nmodels: [{name: m}, {name: m}]\n", ["models[1].name: is also the name of models[0]"]),
    ],
)
def test_a_slip_of_the_pen_does_not_empty_the_fleet(write: Write, text: str, faults: list[str]) -> None:
    assert faults_of(lambda: load_lists(write(text))) == faults


@pytest.mark.parametrize("text", ["", "models: []\n", "discovery: {dns_names: ['vllm:80']}\n"])
def test_workers_may_be_left_out_where_they_come_from_elsewhere(write: Write, text: str) -> None:
    assert load_lists(write(text), workers_required=False) == Lists()
    with pytest.raises(ConfigurationError, match="worker: unknown key"):
        load_lists(write("worker: []"), workers_required=False)


def test_a_live_reload_can_take_every_worker_out(write: Write) -> None:
    assert load_lists(write("workers: []")) == Lists(workers=(), models=())


def test_a_live_reload_reports_a_broken_file_once(write: Write) -> None:
    path = write("workers: [")
    assert faults_of(lambda: load_lists(path)) == [
        f"{path}: line 1, column 11: expected the node content, but found '<stream end>'"
    ]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("load") / "extproc.yaml"


@given(original=all_settings)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_valid_settings_survive_the_trip_through_a_file(scratch: Path, original: Settings) -> None:
    scratch.write_text(as_yaml(original), encoding="utf-8")
    assert load_settings(scratch, environ={}, flags={}) == original


@given(original=all_settings)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_valid_settings_can_be_given_in_the_environment_and_as_flags(original: Settings) -> None:
    texts = {path: _as_text(getattr(getattr(original, path.split(".")[0]), path.split(".")[1])) for path in entries()}
    environ = {entries()[path].environment_name: text for path, text in texts.items()}
    expected = replace(original, workers=(), models=(), plugins=())
    assert load_settings(None, environ=environ, flags={}) == expected
    assert load_settings(None, environ={}, flags=texts) == expected


def _as_text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
names = st.sampled_from(
    [*groups(), "workers", "address", "models", "name", *(path.split(".")[1] for path in entries())]
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | scalars, inner, max_size=4),
    max_leaves=12,
)
nearly_settings = st.dictionaries(names, st.dictionaries(names, values, max_size=4) | st.lists(values, max_size=3))
yaml_words = st.lists(
    st.sampled_from(["workers", "models", "server", ":", "- ", "\n", "  ", "&a ", "*a", "!!int ", "<<", *"[]{}'|#"])
    | st.text(max_size=3),
    max_size=25,
).map("".join)
garbage = (
    st.binary(max_size=200)
    | yaml_words.map(lambda text: text.encode("utf-8", "surrogatepass"))
    | (values | nearly_settings).map(lambda value: yaml.safe_dump(value).encode("utf-8", "surrogatepass"))
)
NAMES_IN_THE_ENVIRONMENT = st.sampled_from([entry.environment_name for entry in entries().values()]) | st.text(
    max_size=8
).map("EXTPROC_SERVER_{}".format)


@given(
    content=garbage,
    environ=st.dictionaries(NAMES_IN_THE_ENVIRONMENT, st.text(max_size=12), max_size=3),
    flags=st.dictionaries(st.sampled_from(list(entries())), st.text(max_size=12), max_size=3),
)
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_garbage_raises_nothing_but_a_configuration_error(
    scratch: Path, content: bytes, environ: Mapping[str, str], flags: Mapping[str, str]
) -> None:
    scratch.write_bytes(content)
    calls: list[Callable[[], Any]] = [
        lambda: load_checked_settings(scratch, environ=environ, flags=flags, policies=POLICIES),
        lambda: load_lists(scratch),
    ]
    for call in calls:
        faults = _faults_if_any(call)
        assert faults != []
        assert all(fault.isprintable() for fault in faults or ())


def _faults_if_any(call: Callable[[], object]) -> list[str] | None:
    try:
        call()
    except ConfigurationError as error:
        return error.faults
    return None
