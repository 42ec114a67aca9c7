"""The workers of the benchmark: one Envoy that answers by itself, so that workers cost as little as can be."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.support.envoy import EnvoyProcess, free_ports

ANSWER = {
    "id": "chatcmpl-0",
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
}
WORKERS = 3


@asynccontextmanager
async def upstream(directory: Path) -> AsyncIterator[list[str]]:
    """Serve until the block ends; gives the workers' addresses."""
    admin, *ports = free_ports(WORKERS + 1)
    bootstrap = {
        "admin": {"address": _address(admin)},
        "static_resources": {"listeners": [_listener(port) for port in ports]},
    }
    async with EnvoyProcess(bootstrap=yaml.safe_dump(bootstrap), listen=ports[0], admin=admin, directory=directory):
        yield [f"127.0.0.1:{port}" for port in ports]


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _listener(port: int) -> dict[str, Any]:
    extensions = "type.googleapis.com/envoy.extensions.filters"
    answer = {"status": 200, "body": {"inline_string": json.dumps(ANSWER)}}
    route = {"match": {"prefix": "/"}, "direct_response": answer}
    router = {"@type": f"{extensions}.http.router.v3.Router"}
    manager = {
        "@type": f"{extensions}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "upstream",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
    }
    network_filter = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    return {
        "name": f"upstream-{port}",
        "address": _address(port),
        "filter_chains": [{"filters": [network_filter]}],
    }
