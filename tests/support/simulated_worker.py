"""Simulated workers in a process of their own, for tests that need something to route to.

Plain blocking calls, each of a few milliseconds on loopback, except ``start``, ``stop`` and the waits: an asynchronous
test runs those through ``asyncio.to_thread``.
"""

import http.client
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from types import TracebackType
from typing import IO, Any, Self

from tests.support.processes import environment, wait_until

MAX_LOG_BYTES = 1 << 20


class WorkerCalls:
    """What a test asks of one worker over HTTP."""

    def __init__(self, *, host: str, port: int) -> None:
        self.host = host
        self.port = port

    @property
    def address(self) -> str:
        """`HOST:PORT`, also the worker's name unless ``--name`` was given."""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def behave(self, **behaviour: str | int | bool) -> None:
        """Change the behaviour; what is not named is normal. A worker that refuses connections needs a signal."""
        status, body = self.call("POST", "/sim/behaviour", json.dumps(behaviour).encode())
        assert status == 200, body

    def requests(self) -> dict[str, Any]:
        """What happened to the requests: `GET /sim/requests`."""
        status, body = self.call("GET", "/sim/requests")
        assert status == 200, body
        shown: dict[str, Any] = json.loads(body)
        return shown

    def forget_requests(self) -> None:
        """Set the counts back."""
        assert self.call("DELETE", "/sim/requests")[0] == 204

    def metrics(self) -> str:
        """The exposition of `GET /metrics`."""
        return self.call("GET", "/metrics")[1].decode()

    def wait_healthy(self, *, deadline_secs: float = 30.0) -> None:
        """Wait until `GET /health` answers 200."""
        wait_until(self.healthy, deadline_secs=deadline_secs, why=f"{self.address} healthy")

    def wait_for_requests(self, condition: Callable[[dict[str, Any]], bool], *, deadline_secs: float = 30.0) -> None:
        """Wait until ``condition`` holds for ``requests()``."""
        wait_until(lambda: condition(self.requests()), deadline_secs=deadline_secs, why=lambda: str(self.requests()))

    def healthy(self) -> bool:
        """Whether `GET /health` answers 200."""
        try:
            return self.call("GET", "/health")[0] == 200
        except OSError:
            return False

    def call(
        self, method: str, path: str, body: bytes | None = None, *, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Send one request on a connection of its own and return status and body."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


class WorkerProcess:
    """A process that runs workers. Ends with the ``with`` block, or by ``stop`` or ``kill``."""

    def __init__(self, process: "subprocess.Popen[bytes]", *, log: IO[bytes]) -> None:
        self.process = process
        self._log = log
        self._last_log = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.resume()
        self.stop()

    def pause(self) -> None:
        """Freeze the whole process: connections are accepted by the kernel and nothing, health included, answers."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """End ``pause``."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End the process at once, as a crash would."""
        self.process.kill()
        self._reap()

    def stop(self, *, deadline_secs: float = 30.0) -> int:
        """Ask the process to end and return its exit status. Does nothing more to one that has ended."""
        self.process.terminate()
        try:
            self.process.wait(deadline_secs)
        except subprocess.TimeoutExpired:
            self.process.kill()
        return self._reap()

    def log(self) -> str:
        """What it wrote to its standard error, readable also after its end."""
        if self._log.closed:
            return self._last_log
        # Not by seeking: the worker writes at the same offset.
        return os.pread(self._log.fileno(), MAX_LOG_BYTES, 0).decode(errors="replace")

    def _reap(self) -> int:
        status = self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._last_log = self.log()
        self._log.close()
        return status


class SimulatedWorker(WorkerCalls, WorkerProcess):
    """One worker in one process. Made by ``start``."""

    def __init__(self, process: "subprocess.Popen[bytes]", *, log: IO[bytes], host: str, port: int) -> None:
        WorkerCalls.__init__(self, host=host, port=port)
        WorkerProcess.__init__(self, process, log=log)

    @classmethod
    def start(cls, *flags: str, port: int = 0, deadline_secs: float = 30.0) -> Self:
        """Start a worker with the given flags on ``port`` (0: a free one) and wait until it serves.

        A worker started with ``--mode refuse`` or ``--unhealthy`` is returned when it has bound its port.
        """
        deadline = time.monotonic() + deadline_secs
        process, log, ready = _launch("--port", str(port), *flags, lines=1, deadline=deadline)
        host, bound_port = _address(ready[0])
        worker = cls(process, log=log, host=host, port=bound_port)
        if "refuse" not in flags and "--unhealthy" not in flags:
            worker.wait_healthy(deadline_secs=deadline - time.monotonic())
        return worker

    def normal(self) -> None:
        """End every misbehaviour, refusal included, and wait until it serves."""
        self.process.send_signal(signal.SIGUSR1)
        self.wait_healthy()

    def healthy(self) -> bool:
        """Whether `GET /health` answers 200; the process must not have ended."""
        assert self.process.poll() is None, f"the worker has ended: {self.log()}"
        return super().healthy()


class SimulatedWorkers(WorkerProcess):
    """Several workers in one process, in the order of their numbers. Made by ``start``."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", *, log: IO[bytes], names: list[str], workers: list[WorkerCalls]
    ) -> None:
        super().__init__(process, log=log)
        self.names = names
        self.workers = workers

    @classmethod
    def start(cls, *flags: str, workers: int, port: int = 0, deadline_secs: float = 30.0) -> Self:
        """Start workers on the ports from ``port`` on (0: free ones) and wait until they are ready."""
        deadline = time.monotonic() + deadline_secs
        process, log, ready = _launch(
            "--port", str(port), "--workers", str(workers), *flags, lines=workers, deadline=deadline
        )
        addresses = [_address(line) for line in ready]
        return cls(
            process,
            log=log,
            names=[line.split()[2] for line in ready],
            workers=[WorkerCalls(host=host, port=bound_port) for host, bound_port in addresses],
        )


def _launch(*flags: str, lines: int, deadline: float) -> "tuple[subprocess.Popen[bytes], IO[bytes], list[str]]":
    """Start a process and wait for its ready lines."""
    log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
    process = subprocess.Popen(
        [sys.executable, "-m", "workers.simulated", *flags], stdout=subprocess.PIPE, stderr=log, env=environment()
    )
    ready = _read_lines(process, lines, deadline)
    if len(ready) == lines:
        return process, log, ready
    process.kill()
    status = process.wait()
    assert process.stdout is not None
    process.stdout.close()
    log.seek(0)
    text = log.read().decode()
    log.close()
    raise AssertionError(f"the workers did not start (status {status}): {text}")


def _read_lines(process: "subprocess.Popen[bytes]", count: int, deadline: float) -> list[str]:
    """The first lines that the process prints; fewer when it ends or the deadline passes."""
    assert process.stdout is not None
    text = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while text.count(b"\n") < count:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                break
            # Not by lines: a buffer would keep what the selector is then waiting for.
            more = os.read(process.stdout.fileno(), 1 << 16)
            if not more:
                break
            text += more
    return text.decode().splitlines()


def _address(ready: str) -> tuple[str, int]:
    host, _, port = ready.rsplit(" ", 1)[-1].rpartition(":")
    return host, int(port)
