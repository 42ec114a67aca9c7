"""The other gateways, as their users start them. ``make bench-peers`` installs them, apart from us."""

import asyncio
import json
import signal
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.envoy import free_ports
from tests.support.processes import REPOSITORY
from tests.support.service import Service
from tests.support.usage import descendants
from tests.support.waiting import until

PEERS = REPOSITORY / ".venv-peers"
STOP_SECS = 10.0


@dataclass(frozen=True)
class Gateway:
    """A program that balances over workers given by URL. By default both log every request; here they do not."""

    name: str
    command: tuple[str, ...]

    @property
    def program(self) -> Path:
        """Where it is installed, if it is."""
        return PEERS / "bin" / self.command[0]


@dataclass(frozen=True)
class Contender:
    """A gateway with a policy; without a gateway Envoy with us, or alone if there is no policy."""

    key: str
    name: str
    policy: str = ""
    gateway: Gateway | None = None


SMG = Gateway("SMG", ("smg", "launch", "--log-level", "warn"))
VLLM_ROUTER = Gateway("vllm-router", ("vllm-router", "--log-level", "warning"))


@dataclass(frozen=True)
class Running:
    """A set-up that serves at ``url``: its processes, those that are Envoy apart, and the service where it is ours."""

    url: str
    pids: tuple[int, ...]
    envoy: tuple[int, ...] = ()
    service: Service | None = None


@asynccontextmanager
async def running(gateway: Gateway, policy: str, *, workers: list[str], directory: Path) -> AsyncIterator[Running]:
    """Run a gateway until the block ends; it starts with all ``workers`` registered and found healthy."""
    listen, metrics = free_ports(2)
    url, log = f"http://127.0.0.1:{listen}", directory / f"{gateway.command[0]}.log"
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *(
                str(gateway.program),
                *gateway.command[1:],
                "--policy",
                policy,
                "--host",
                "127.0.0.1",
                "--port",
                str(listen),
            ),
            *("--prometheus-host", "127.0.0.1", "--prometheus-port", str(metrics)),
            *("--worker-urls", *(f"http://{worker}" for worker in workers)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        await until(lambda: _is_ready(process, url, len(workers)))
        yield Running(url, (process.pid, *descendants(process.pid)))
    except BaseException as error:
        error.add_note(log.read_text(errors="replace")[-4000:])
        raise
    finally:
        await _stop(process)


async def _is_ready(process: asyncio.subprocess.Process, url: str, workers: int) -> bool:
    if process.returncode is not None:
        raise RuntimeError(f"it ended with {process.returncode}")
    document = json.loads(await asyncio.to_thread(_get, f"{url}/readiness"))
    return bool(document.get("healthy_workers") == workers)


def _get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            return error.read().decode() or "{}"


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_SECS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
