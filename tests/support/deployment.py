"""Everything at once: simulated workers, the service and real Envoys in front of it."""

import asyncio
import copy
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from extproc.config.load import load_settings
from extproc.dataplane.bootstrap import bootstrap_yaml
from tests.support.envoy import EnvoyProcess, free_ports
from tests.support.service import Service
from tests.support.simulated_worker import SimulatedWorker

Bootstrap = dict[str, Any]
MODEL = "tiny"


@dataclass
class Deployment:
    """The running parts; ``envoy`` is the first data plane."""

    workers: list[SimulatedWorker]
    service: Service
    envoy: EnvoyProcess

    @property
    def address(self) -> str:
        """Where clients connect."""
        return f"127.0.0.1:{self.envoy.listen}"


@asynccontextmanager
async def deployment(
    directory: Path,
    *,
    workers: int = 3,
    config: dict[str, Any] | None = None,
    models: tuple[str, ...] = (MODEL,),
    edit: Callable[[Bootstrap], None] = lambda _bootstrap: None,
    concurrency: int = 1,
    worker_flags: tuple[str, ...] = ("--ttft-secs", "0.005", "--token-secs", "0.001", "--max-tokens", "4"),
) -> AsyncIterator[Deployment]:
    """Start ``workers`` workers, the service with ``config`` over ours, and one Envoy with its bootstrap ``edit``ed."""
    async with AsyncExitStack() as stack:
        running = [await asyncio.to_thread(SimulatedWorker.start, *worker_flags) for _ in range(workers)]
        for worker in running:
            stack.push_async_callback(asyncio.to_thread, worker.stop)
        listed = [{"id": f"w{i}", "address": one.address, "models": list(models)} for i, one in enumerate(running)]
        base: dict[str, Any] = {"routing": {"decision_header": True}, "workers": listed}
        service = await stack.enter_async_context(Service(directory=directory, config=base | (config or {})))
        envoy = await stack.enter_async_context(data_plane(service, edit=edit, concurrency=concurrency))
        yield Deployment(running, service, envoy)


@asynccontextmanager
async def data_plane(
    service: Service, *, edit: Callable[[Bootstrap], None] = lambda _bootstrap: None, concurrency: int = 1
) -> AsyncIterator[EnvoyProcess]:
    """One more Envoy in front of a running service, on ports of its own."""
    bootstrap = yaml.safe_load(bootstrap_yaml(load_settings(service.config_file, environ={}, flags={})))
    listen, admin = free_ports(2)
    listener(bootstrap)["address"]["socket_address"]["port_value"] = listen
    bootstrap["admin"]["address"]["socket_address"]["port_value"] = admin
    edit(bootstrap)
    async with EnvoyProcess(
        bootstrap=yaml.safe_dump(bootstrap),
        listen=listen,
        admin=admin,
        directory=service.directory,
        concurrency=concurrency,
    ) as envoy:
        yield envoy


def listener(bootstrap: Bootstrap) -> dict[str, Any]:
    """The clients' listener of a bootstrap."""
    return dict_at(bootstrap["static_resources"]["listeners"], "clients")


def connection_manager(bootstrap: Bootstrap) -> dict[str, Any]:
    """Its HTTP connection manager."""
    manager: dict[str, Any] = listener(bootstrap)["filter_chains"][0]["filters"][0]["typed_config"]
    return manager


def ext_proc_filter(bootstrap: Bootstrap) -> dict[str, Any]:
    """Its external processing filter."""
    filters = connection_manager(bootstrap)["http_filters"]
    configured: dict[str, Any] = dict_at(filters, "envoy.filters.http.ext_proc")["typed_config"]
    return configured


def router_cluster(bootstrap: Bootstrap) -> dict[str, Any]:
    """The cluster of our routers."""
    return dict_at(bootstrap["static_resources"]["clusters"], "extproc")


def dict_at(items: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The item called ``name``."""
    (found,) = [item for item in items if item["name"] == name]
    return found


def without_ext_proc(bootstrap: Bootstrap) -> None:
    """Take us out of a bootstrap."""
    manager = connection_manager(bootstrap)
    manager["http_filters"] = [one for one in manager["http_filters"] if one["name"] != "envoy.filters.http.ext_proc"]


def without_retries(bootstrap: Bootstrap) -> None:
    """Let every request be tried once."""
    for host in connection_manager(bootstrap)["route_config"]["virtual_hosts"]:
        for route in host["routes"]:
            route["route"].pop("retry_policy", None)


def processing_mode(**modes: str) -> Callable[[Bootstrap], None]:
    """An edit that sets the filter's processing mode; ``pipelined`` is set by ``request_body_mode="PIPELINED"``."""

    def edit(bootstrap: Bootstrap) -> None:
        chosen = copy.deepcopy(modes)
        ext_proc = ext_proc_filter(bootstrap)
        if chosen.get("request_body_mode") == "PIPELINED":
            chosen["request_body_mode"] = "STREAMED"
            ext_proc["send_body_without_waiting_for_header_response"] = True
        ext_proc["processing_mode"] = chosen
        ext_proc["allow_mode_override"] = False
        # A pipelined body that does not fit waits for ever: the buffer must hold the largest.
        listener(bootstrap)["per_connection_buffer_limit_bytes"] = 64 << 20

    return edit
