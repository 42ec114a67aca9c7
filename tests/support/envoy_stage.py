"""A whole data plane in one test: Envoy with our generated configuration, tiny processors and echo workers."""

import dataclasses
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import grpc

from extproc.config.dataplane import EnvoySettings
from extproc.config.endpoints import eds_file, router_addresses
from extproc.config.policies import RoutingSettings
from extproc.config.server import ServerSettings
from extproc.config.settings import Settings
from extproc.config.supervisor import SupervisorSettings
from extproc.dataplane.bootstrap import bootstrap_yaml
from extproc.dataplane.eds import EndpointFile
from extproc.fleet.worker import Worker
from tests.support import waiting
from tests.support.echo_worker import EchoWorker
from tests.support.envoy import EnvoyProcess, free_ports
from tests.support.tiny_extproc import TinyExtProc

DEADLINE_SECS = 10.0


@dataclasses.dataclass
class Answer:
    """What a client got."""

    status: int
    worker: str
    text: str
    headers: dict[str, str]


@dataclasses.dataclass
class Stage:
    """The running parts."""

    envoy: EnvoyProcess
    processors: list[TinyExtProc]
    workers: list[EchoWorker]
    endpoints: EndpointFile
    client: aiohttp.ClientSession

    def decide(self, destination: str | Callable[[], str]) -> None:
        """Let every processor choose this endpoint list, or what this returns."""
        for processor in self.processors:
            processor.decide = destination

    async def post(self, *, size: int = 30, headers: dict[str, str] | None = None) -> Answer:
        """Send a body of ``size`` bytes."""
        request = self.client.post(f"{self.envoy.url}/v1/completions", data=io.BytesIO(b"x" * size), headers=headers)
        async with request as response:
            text = await response.text()
            found = await response.json() if response.content_type == "application/json" else {}
            return Answer(response.status, found.get("worker", ""), text, dict(response.headers))

    async def health(self, worker: EchoWorker) -> str | None:
        """EDS health of a worker as Envoy sees it; ``None`` when Envoy does not know it."""
        status = (await self.envoy.clusters())["workers"].get(worker.address)
        return None if status is None else str(status.get("eds_health_status"))


def settings_for(directory: Path, **changes: object) -> Settings:
    """Settings on free ports and sockets in ``directory``; ``changes`` are ``group__name=value``."""
    listen, admin = free_ports(2)
    groups: dict[str, dict[str, object]] = {
        "server": {},
        "supervisor": {"run_dir": str(directory), "routers": 2},
        "routing": {},
        "envoy": {"listen_address": f"127.0.0.1:{listen}", "admin_address": f"127.0.0.1:{admin}"},
    }
    for path, value in changes.items():
        group, name = path.split("__")
        groups[group][name] = value
    return Settings(
        server=ServerSettings(**groups["server"]),  # type: ignore[arg-type]  # each test names fields of the right type
        supervisor=SupervisorSettings(**groups["supervisor"]),  # type: ignore[arg-type]
        routing=RoutingSettings(**groups["routing"]),  # type: ignore[arg-type]
        envoy=EnvoySettings(**groups["envoy"]),  # type: ignore[arg-type]
    )


def listed(workers: Sequence[EchoWorker]) -> list[Worker]:
    """The workers as the observer would write them."""
    return [Worker(id=one.address, address=one.address, slot=slot) for slot, one in enumerate(workers)]


@asynccontextmanager
async def stage(
    settings: Settings,
    *,
    workers: int = 2,
    processors: int = 2,
    credentials: grpc.ServerCredentials | None = None,
    edit: Callable[[str], str] = lambda text: text,
) -> AsyncIterator[Stage]:
    """Run ``processors`` of the configured routers (the others are dead), ``workers`` workers and one Envoy.

    ``edit`` may change the bootstrap's text.
    """
    async with AsyncExitStack() as stack:
        running = [await stack.enter_async_context(EchoWorker()) for _ in range(workers)]
        routers = [
            await stack.enter_async_context(TinyExtProc(address=address, credentials=credentials))
            for address in router_addresses(settings)[:processors]
        ]
        endpoints = EndpointFile(path=Path(eds_file(settings)))
        endpoints.write(listed(running))
        envoy = await stack.enter_async_context(
            EnvoyProcess(
                bootstrap=edit(bootstrap_yaml(settings)),
                listen=_port(settings.envoy.listen_address),
                admin=_port(settings.envoy.admin_address),
                directory=Path(settings.supervisor.run_dir),
            )
        )
        client = await stack.enter_async_context(
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30), connector=aiohttp.TCPConnector(limit=0))
        )
        yield Stage(envoy, routers, running, endpoints, client)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for something that happens in another process. Raises ``TimeoutError`` after ten seconds."""
    await waiting.until(condition, deadline_secs=DEADLINE_SECS)


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])
