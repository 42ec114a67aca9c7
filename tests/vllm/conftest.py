"""Two real vLLM servers on CPU behind a real Envoy and the service: ``make test-vllm``.

They need an environment of their own, so these tests run only where they are asked for by their place.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.envoy import free_ports
from tests.support.event_reader import EventReader
from tests.vllm.gateway import Gateway, gateway
from tests.vllm.servers import Tiny, VllmServer, vllm_executable
from workers.vllm.tiny_lora import shape_of, write_adapter
from workers.vllm.tiny_model import Shape, write_model

HERE = Path(__file__).parent
TIMEOUT_SECS = 900


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave these tests out of a run that does not name them."""
    named = [config.invocation_params.dir / argument.partition("::")[0] for argument in config.args]
    if any(path.resolve() == HERE or HERE in path.resolve().parents for path in named):
        return None
    return collection_path.suffix == ".py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the servers the time that they need to start."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(TIMEOUT_SECS))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    assert vllm_executable().exists(), f"there is no {vllm_executable()}: `make test-vllm` installs it"
    directory = tmp_path_factory.mktemp("tiny")
    write_model(directory / "model", shape=Shape(), seed=0)
    write_adapter(directory / "lora", shape=shape_of(directory / "model"), base_model="tiny", seed=1)
    return Tiny(directory / "model", directory / "lora")


@pytest.fixture(scope="session")
def servers(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, VllmServer]]:
    """Two servers by the ids of their workers, started at once."""
    directory = tmp_path_factory.mktemp("kv")
    started = {
        f"vllm-{number}": VllmServer(model=tiny.model, port=port, directory=directory, flags=tiny.flags)
        for number, port in enumerate(free_ports(2), start=1)
    }
    with ExitStack() as stack:
        for server in started.values():
            stack.callback(server.stop)
            server.start()
        for server in started.values():
            server.wait_healthy()
        yield started


@pytest.fixture
def readers(servers: dict[str, VllmServer]) -> Iterator[dict[str, EventReader]]:
    """Who listens to both of them beside the service."""
    with ExitStack() as stack:
        found = {name: EventReader(server.get("/kv_event_sources")["0"]) for name, server in servers.items()}
        for reader in found.values():
            stack.enter_context(reader)
        yield found


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def gate(
    tiny: Tiny, servers: dict[str, VllmServer], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    """The service and Envoy before both servers."""
    workers = [{"id": name, "address": server.address} for name, server in servers.items()]
    async with gateway(tmp_path_factory.mktemp("gate"), model=tiny.model, workers=workers) as one:
        yield one


@pytest_asyncio.fixture(loop_scope="session")
async def fresh(gate: Gateway, servers: dict[str, VllmServer]) -> Gateway:
    """The same, with empty caches in the engines."""
    for server in servers.values():
        await asyncio.to_thread(server.reset_prefix_cache)
    return gate
