"""The service under test as its operator runs it: ``extproc serve`` in processes of its own."""

import asyncio
import json
import os
import signal
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support.envoy import free_ports

START_SECS = 60.0
STOP_SECS = 60.0
POLL_SECS = 0.02
LOG_TAIL_LINES = 60


class Service:
    """One service: supervisor, routers, observer.

    ``config`` is the configuration file's content; ports and the run directory are filled in where it leaves them out.
    Where it names no policy it is ``round_robin``, so that a test knows who serves.
    """

    def __init__(self, *, directory: Path, config: dict[str, Any]) -> None:
        self.directory = directory
        self.config_file = directory / "extproc.yaml"
        self.log = directory / "extproc.log"
        admin, listen, envoy_admin = free_ports(3)
        self.config: dict[str, Any] = {
            **config,
            "server": {"drain_linger_secs": 0.2, **config.get("server", {})},
            "supervisor": {"routers": 2, "run_dir": str(directory / "run"), **config.get("supervisor", {})},
            "admin": {"address": f"127.0.0.1:{admin}", **config.get("admin", {})},
            "routing": {"policy": "round_robin", **config.get("routing", {})},
            "envoy": {
                "listen_address": f"127.0.0.1:{listen}",
                "admin_address": f"127.0.0.1:{envoy_admin}",
                **config.get("envoy", {}),
            },
        }
        self.write_config()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def admin_url(self) -> str:
        return f"http://{self.config['admin']['address']}"

    @property
    def pid(self) -> int:
        """The supervisor's."""
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
            error.add_note(f"The service's log:\n{self.log_tail()}")

    def write_config(self) -> None:
        """Write the configuration file, atomically as an operator's tool would."""
        temporary = self.config_file.with_suffix(".tmp")
        temporary.write_text(yaml.safe_dump(self.config, sort_keys=False))
        temporary.replace(self.config_file)

    async def start(self) -> None:
        """Start and wait until requests are served."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "extproc", "serve", "-c", str(self.config_file)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(START_SECS):
                while not await self.is_ready():
                    if self._process.returncode is not None:
                        raise RuntimeError(f"extproc ended with {self._process.returncode}:\n{self.log_tail()}")
                    await asyncio.sleep(POLL_SECS)
        except BaseException as error:
            error.add_note(self.log_tail())
            await self.stop()
            raise

    async def stop(self) -> int:
        """Stop as an operator does, with SIGTERM; returns the exit code."""
        process = self._process
        assert process is not None
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(STOP_SECS):
                    await process.wait()
            except TimeoutError:
                self.kill_everything()
                await process.wait()
                raise
        assert process.returncode is not None
        return process.returncode

    def kill_everything(self) -> None:
        """SIGKILL the supervisor and every child, all at once."""
        pids = [self.pid, *self.child_pids()]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    def signal(self, signum: signal.Signals) -> None:
        """Send a signal to the supervisor."""
        os.kill(self.pid, signum)

    def child_pids(self) -> list[int]:
        """Routers and observer, as the kernel knows them."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    async def processes(self) -> list[dict[str, Any]]:
        """Role, index, pid and state of every child, from the admin port."""
        return list((await self.admin("/processes"))["processes"])

    async def pids(self, role: str) -> list[int]:
        """Pids of a role's processes that are ready."""
        return [row["pid"] for row in await self.processes() if row["role"] == role and row["state"] == "ready"]

    async def is_ready(self) -> bool:
        try:
            return bool((await self.admin("/readiness"))["status"] == "ready")
        except (OSError, ValueError, KeyError):
            return False

    async def admin(self, path: str) -> Any:  # noqa: ANN401 - a JSON document
        """A JSON document of the admin port."""
        return json.loads(await asyncio.to_thread(self._get, path))

    async def workers(self) -> list[dict[str, Any]]:
        """The fleet as the admin port shows it."""
        return list((await self.admin("/workers"))["workers"])

    async def metric(self, name: str, **labels: str) -> float:
        """Sum of a metric's samples that carry ``labels``."""
        text = await asyncio.to_thread(self._get, "/metrics")
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def log_tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-LOG_TAIL_LINES:])

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"{self.admin_url}{path}", timeout=5) as answer:
            return str(answer.read().decode())
