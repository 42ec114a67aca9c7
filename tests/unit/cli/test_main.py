import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from extproc import __version__
from extproc.cli.main import COMMANDS, Commands, main
from extproc.errors import ConfigurationError, StartupError

PYTHON = sys.executable


@pytest.fixture
def one_command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[object], int]], Commands]:
    """Return a table with the one command `go`, whose module runs a given function."""

    def table(run: Callable[[object], int]) -> Commands:
        def add_arguments(parser: ArgumentParser) -> None:
            parser.add_argument("--word")

        monkeypatch.setitem(sys.modules, "a_command", SimpleNamespace(add_arguments=add_arguments, run=run))
        return {"go": ("a_command", "go somewhere"), "stay": ("a_module_that_is_not_there", "stay here")}

    return table


def test_runs_the_chosen_command_and_returns_its_code(
    one_command: Callable[[Callable[[object], int]], Commands],
) -> None:
    seen = []

    def run(arguments: object) -> int:
        seen.append(arguments.word)  # type: ignore[attr-defined]
        return 7

    assert main(["go", "--word", "x"], commands=one_command(run)) == 7
    assert seen == ["x"]


def test_a_bad_configuration_is_every_fault_and_exit_code_2(
    one_command: Callable[[Callable[[object], int]], Commands], capsys: pytest.CaptureFixture[str]
) -> None:
    def run(arguments: object) -> int:
        raise ConfigurationError(["server.tls: is wrong", "admin.address: is wrong"])

    assert main(["go"], commands=one_command(run)) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == "The configuration cannot be used:\n  server.tls: is wrong\n  admin.address: is wrong\n"


def test_a_service_that_cannot_start_is_exit_code_3(
    one_command: Callable[[Callable[[object], int]], Commands], capsys: pytest.CaptureFixture[str]
) -> None:
    def run(arguments: object) -> int:
        raise StartupError("port 9090 is in use")

    assert main(["go"], commands=one_command(run)) == 3
    assert capsys.readouterr().err == "Cannot start: port 9090 is in use\n"


def test_ctrl_c_ends_a_command_without_a_traceback(one_command: Callable[[Callable[[object], int]], Commands]) -> None:
    def run(arguments: object) -> int:
        raise KeyboardInterrupt

    assert main(["go"], commands=one_command(run)) == 130


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "a command is required"),
        (["fly"], "invalid choice: 'fly'"),
        (["check"], "the following arguments are required: -c/--config"),
        (["check", "-c", "x", "--server.max-stream", "1"], "unrecognized arguments: --server.max-stream 1"),
        (["demo", "--twice"], "unrecognized arguments: --twice"),
    ],
)
def test_wrong_usage_is_exit_code_2(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_shows_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"extproc {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: extproc {command} ")


@pytest.mark.parametrize(
    ("argv", "heavy"),
    [
        (["--help"], {"yaml", "msgspec", "extproc.config.settings", "extproc.cli.demo", "envoy_data_plane"}),
        (
            ["check", "--help"],
            {"extproc.cli.demo", "extproc.supervisor.supervisor", "envoy_data_plane", "grpc", "aiohttp"},
        ),
    ],
)
def test_help_loads_only_what_it_shows(argv: list[str], heavy: set[str]) -> None:
    program = (
        "import contextlib, sys\n"
        "from extproc.cli.main import main\n"
        f"with contextlib.suppress(SystemExit): main({argv!r})\n"
        f"print('loaded:', *({heavy!r} & set(sys.modules)))\n"
    )
    done = subprocess.run([PYTHON, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "loaded:"


@pytest.mark.parametrize("command", ["serve", "check", "envoy-config"])
def test_a_bad_file_ends_the_process_with_every_fault_and_nothing_started(command: str, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    path = tmp_path / "extproc.yaml"
    path.write_text(f"supervisor: {{run_dir: {run_dir}, routers: many}}\nworkers: [{{address: nowhere}}]\n")
    done = subprocess.run(
        [PYTHON, "-m", "extproc", command, "-c", str(path), "--server.max-streams", "none"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "The configuration cannot be used:",
        "  supervisor.routers: must be a whole number, not 'many'",
        "  workers[0].address: must be `IP:PORT` with an IP address, not a name; is 'nowhere'",
        "  --server.max-streams: must be a whole number, not 'none'",
    ]
    assert not run_dir.exists()
