"""Real vLLM servers in processes of their own, on loopback, ended with everything that they started."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from tests.support.processes import environment, wait_until
from workers.vllm.install import DEFAULT_DIRECTORY
from workers.vllm.launch import HOST

START_SECS = 500.0
STOP_SECS = 30.0
ANSWER_SECS = 120.0
LOG_TAIL_LINES = 40
ADAPTER = "ad1"
BLOCK_TOKENS = 32
MAX_MODEL_LEN = 8192
# Room for one request of the greatest length and some conversations more, so that those are driven out.
BLOCKS = 400
EXECUTABLE_VARIABLE = "VLLM_EXECUTABLE"


def vllm_executable() -> Path:
    """The `vllm` that `make test-vllm` installs, or the one that the environment names."""
    return Path(os.environ.get(EXECUTABLE_VARIABLE) or DEFAULT_DIRECTORY / "bin" / "vllm")


class Tiny(NamedTuple):
    """The model that is served, and an adapter for it."""

    model: Path
    adapter: Path

    @property
    def flags(self) -> list[str]:
        """For the launcher."""
        return [
            *("--lora", f"{ADAPTER}={self.adapter}", "--max-model-len", str(MAX_MODEL_LEN)),
            *("--block-tokens", str(BLOCK_TOKENS), "--blocks", str(BLOCKS)),
        ]


class VllmServer:
    """One server on ``port``, with the launcher's ``flags``. ``start`` does not wait, so that several start at once."""

    def __init__(
        self,
        *,
        model: Path,
        port: int,
        directory: Path,
        flags: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
        executable: Path | None = None,
    ) -> None:
        self.port = port
        self.log = directory / f"vllm-{port}.log"
        self._variables = dict(variables or {})
        self._command = [
            *(sys.executable, "-m", "workers.vllm.launch", "--vllm", str(executable or vllm_executable())),
            *("--model", str(model), "--port", str(port), "--kv-events-dir", str(directory), "--dev", *flags),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_healthy()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process; it serves after half a minute."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment() | self._variables,
                # A group of its own: the engine's processes outlive the server's when that is killed.
                start_new_session=True,
            )

    def wait_healthy(self) -> None:
        """Wait until it serves; fails when it has ended."""
        wait_until(self.healthy, deadline_secs=START_SECS, why=self.log_tail)

    def healthy(self) -> bool:
        """Whether `GET /health` answers 200; the process must not have ended."""
        assert self._process is not None
        assert self._process.poll() is None, f"vLLM has ended:\n{self.log_tail()}"
        try:
            return self.call("GET", "/health")[0] == 200
        except OSError:
            return False

    def stop(self) -> None:
        """End it as an operator does, and by force what is left."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECS)
        self.kill()

    def kill(self) -> None:
        """End all of its processes at once, as a crash of the machine would."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def log_tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-LOG_TAIL_LINES:])

    def post(self, path: str, body: Mapping[str, object], *, headers: Mapping[str, str] | None = None) -> Any:  # noqa: ANN401 - a JSON document
        """The JSON answer to a JSON body; it must be 200."""
        content_type = {"content-type": "application/json"}
        status, answer = self.call("POST", path, json.dumps(body).encode(), headers={**content_type, **(headers or {})})
        assert status == 200, answer
        return json.loads(answer)

    def get(self, path: str) -> Any:  # noqa: ANN401 - a JSON document
        status, answer = self.call("GET", path)
        assert status == 200, answer
        return json.loads(answer)

    def reset_prefix_cache(self) -> None:
        """Empty the cache; it is announced with the next step of the engine."""
        status, answer = self.call("POST", "/reset_prefix_cache")
        assert status == 200, answer

    def call(
        self, method: str, path: str, body: bytes | None = None, *, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Send one request on a connection of its own; returns status and body."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=ANSWER_SECS)
        try:
            connection.request(method, path, body=body, headers=dict(headers or {}))
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()
