import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

import pytest

from extproc.cli.serve import add_arguments, run
from extproc.config.plugins import PluginGroup
from extproc.config.settings import Settings
from extproc.errors import ConfigurationError
from tests.support.plugins import install


def parse(*argv: str) -> Namespace:
    parser = ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(argv)


class Recorder:
    """Stands where the supervisor stands: keeps what it is given and ends at once."""

    def __init__(self) -> None:
        self.calls: list[tuple[Settings, Path, Callable[[], Settings]]] = []

    def __call__(self, settings: Settings, *, config_file: Path, reload: Callable[[], Settings]) -> int:
        self.calls.append((settings, config_file, reload))
        return 5


def test_hands_over_checked_settings_and_a_way_to_read_them_again(tmp_path: Path) -> None:
    path = tmp_path / "extproc.yaml"
    path.write_text("supervisor: {routers: 1}\n")
    serve = Recorder()
    assert run(parse("-c", str(path), "--server.max-pings", "9"), serve=serve) == 5
    [(settings, config_file, reload)] = serve.calls
    assert (settings.supervisor.routers, settings.server.max_pings, config_file) == (1, 9, path)
    path.write_text("supervisor: {routers: 2}\n")
    assert (reload().supervisor.routers, reload().server.max_pings) == (2, 9)


def test_a_bad_configuration_starts_nothing(tmp_path: Path) -> None:
    serve = Recorder()
    with pytest.raises(ConfigurationError):
        run(parse("-c", str(tmp_path / "missing.yaml")), serve=serve)
    assert serve.calls == []


def test_warnings_go_to_standard_error_and_stop_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "extproc.yaml"
    path.write_text("envoy: {upstream_idle_timeout_secs: 60}\n")
    serve = Recorder()
    assert run(parse("-c", str(path)), serve=serve) == 5
    assert capsys.readouterr().err.startswith("warning: envoy.upstream_idle_timeout_secs: vLLM closes")


def test_a_plugin_that_cannot_be_imported_starts_nothing_and_ends_no_running_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = {PluginGroup.HOOKS: {"broken": "no_such_module_of_a_test:x"}}
    site = install(tmp_path / "site", package="p", entry_points=points, modules={})
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    path = tmp_path / "extproc.yaml"
    path.write_text("{}")
    serve = Recorder()
    assert run(parse("-c", str(path)), serve=serve) == 5
    path.write_text("hooks: {enabled: [broken]}\n")
    reload = serve.calls[0][2]
    for read in (reload, lambda: run(parse("-c", str(path)), serve=serve)):
        with pytest.raises(ConfigurationError) as caught:
            read()
        (fault,) = caught.value.faults
        assert fault.startswith("hooks.enabled[0]: broken: no_such_module_of_a_test:x of p cannot be imported")
    assert len(serve.calls) == 1
