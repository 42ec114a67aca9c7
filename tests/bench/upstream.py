"""The workers of the benchmark: one Envoy that answers by itself, so that workers cost as little as can be.

Besides completions it answers what gateways ask a worker before they send anything to it: its models, its version, its
health and its metrics.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.bench.load import MODEL
from tests.support.envoy import EnvoyProcess, free_ports

ANSWER = {
    "id": "chatcmpl-0",
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
}
MODELS = {
    "object": "list",
    "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "vllm", "root": MODEL, "max_model_len": 32768}],
}
METRICS = "".join(
    f'# TYPE vllm:{name} gauge\nvllm:{name}{{model_name="{MODEL}"}} 0.0\n'
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
)
JSON = "application/json"
ANSWERS = (
    ("/v1/models", JSON, json.dumps(MODELS)),
    ("/version", JSON, json.dumps({"version": "0.11.0"})),
    ("/health", "text/plain", ""),
    ("/metrics", "text/plain", METRICS),
    ("/v1/", JSON, json.dumps(ANSWER)),
)
"""What is answered, by the beginning of the path; anything else is unknown, as to a worker."""

WORKERS = 3
MAX_BODY_BYTES = 1 << 20


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
    # An answer that does not wait for the end of the request ends the connection, which no worker does.
    buffer = {"@type": f"{extensions}.http.buffer.v3.Buffer", "max_request_bytes": MAX_BODY_BYTES}
    router = {"@type": f"{extensions}.http.router.v3.Router"}
    manager = {
        "@type": f"{extensions}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "upstream",
        "route_config": {
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [_route(*answer) for answer in ANSWERS]}]
        },
        "http_filters": [
            {"name": "envoy.filters.http.buffer", "typed_config": buffer},
            {"name": "envoy.filters.http.router", "typed_config": router},
        ],
    }
    network_filter = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    return {
        "name": f"upstream-{port}",
        "address": _address(port),
        "filter_chains": [{"filters": [network_filter]}],
    }


def _route(prefix: str, content_type: str, body: str) -> dict[str, Any]:
    header = {"header": {"key": "content-type", "value": content_type}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    return {
        "match": {"prefix": prefix},
        "direct_response": {"status": 200, "body": {"inline_string": body}} if body else {"status": 200},
        "response_headers_to_add": [header],
    }
