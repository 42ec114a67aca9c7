"""A data plane that sees one port still uses every router."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.deployment import MODEL, Bootstrap, deployment, router_cluster
from tests.support.envoy import free_ports
from tests.support.load import Load, post

pytestmark = pytest.mark.e2e

ROUTERS = 4
IN_FLIGHT = 400
LOAD_SECS = 10.0

CHAT = post(
    "/v1/chat/completions",
    json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}).encode(),
    {"x-sim-ttft-secs": "0.2"},
)


@pytest.mark.parametrize("models", [(), (MODEL,)], ids=["headers only", "bodies read"])
async def test_load_spreads_over_routers_behind_one_port_and_nothing_fails(
    tmp_path: Path, models: tuple[str, ...]
) -> None:
    (port,) = free_ports(1)
    config = {"server": {"shared_address": f"127.0.0.1:{port}"}, "supervisor": {"routers": ROUTERS}}

    def one_endpoint(bootstrap: Bootstrap) -> None:
        endpoint: dict[str, Any] = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}
        router_cluster(bootstrap)["load_assignment"]["endpoints"] = [{"lb_endpoints": [{"endpoint": endpoint}]}]

    async with deployment(tmp_path, config=config, models=models, edit=one_endpoint, concurrency=1) as deployed:
        result = await Load(deployed.address, CHAT, clients=IN_FLIGHT).run_for(LOAD_SECS)
        streams = [
            await deployed.service.metric("extproc_process_streams_total", role="router", index=str(index))
            for index in range(ROUTERS)
        ]
    assert result.failed == {}
    assert result.broken_off == 0
    share = sum(streams) / ROUTERS
    assert share > IN_FLIGHT
    assert all(share / 2 <= count <= share * 2 for count in streams), streams
