"""TLS between Envoy and the routers, on the address that they share and on their own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from extproc.server.tls import CertificatePair, self_signed_pair
from tests.support.deployment import MODEL, Bootstrap, Deployment, deployment, router_cluster
from tests.support.envoy import free_ports
from tests.support.load import Load, post
from tests.support.waiting import until

pytestmark = pytest.mark.e2e

REQUESTS = 60
ENCRYPTED = {
    "name": "envoy.transport_sockets.tls",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": {"alpn_protocols": ["h2"]},
    },
}

CHAT = post(
    "/v1/chat/completions",
    json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}).encode(),
)


def one_endpoint(port: int, *, encrypted: bool) -> Callable[[Bootstrap], None]:
    """An edit that gives the cluster of the routers one endpoint, with or without TLS."""

    def edit(bootstrap: Bootstrap) -> None:
        endpoint: dict[str, Any] = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}
        cluster = router_cluster(bootstrap)
        cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": [{"endpoint": endpoint}]}]
        if encrypted:
            cluster["transport_socket"] = ENCRYPTED

    return edit


@pytest.mark.parametrize("transport", ["native", "grpcio"])
async def test_the_shared_address_speaks_tls_with_a_certificate_of_its_own(tmp_path: Path, transport: str) -> None:
    (port,) = free_ports(1)
    config = {"server": {"transport": transport, "tls": "self_signed", "shared_address": f"127.0.0.1:{port}"}}
    async with deployment(tmp_path, config=config, edit=one_endpoint(port, encrypted=True)) as deployed:
        result = await Load(deployed.address, CHAT, clients=4, limit=REQUESTS).run()
        # Envoy would also have balanced them by itself: each was decided by us.
        await until(lambda: all_routed(deployed))
    assert result.failed == {}


async def test_a_peer_without_tls_is_turned_away_and_counted(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    config = {"server": {"tls": "self_signed", "shared_address": f"127.0.0.1:{port}"}}
    async with deployment(tmp_path, config=config, edit=one_endpoint(port, encrypted=False)) as deployed:
        result = await Load(deployed.address, CHAT, clients=1, limit=5).run()
        await until(lambda: turned_away(deployed))
        assert await deployed.service.metric("extproc_requests_total") == 0
    assert result.failed == {}


async def test_a_router_on_a_port_of_its_own_speaks_tls_as_the_generated_bootstrap_expects(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    server = {"tls": "self_signed", "router_address": f"127.0.0.1:{port}"}
    async with deployment(tmp_path, config={"server": server, "supervisor": {"routers": 1}}) as deployed:
        result = await Load(deployed.address, CHAT, clients=4, limit=REQUESTS).run()
        await until(lambda: all_routed(deployed))
    assert result.failed == {}


async def test_a_changed_certificate_is_used_and_counted_and_an_unusable_one_only_counted(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    write(self_signed_pair(), chain=chain, key=key)
    server = {
        "router_address": f"127.0.0.1:{port}",
        "tls": "files",
        "tls_certificate_file": str(chain),
        "tls_private_key_file": str(key),
        "tls_reload_interval_secs": 0.2,
    }
    async with deployment(tmp_path, config={"server": server, "supervisor": {"routers": 1}}) as deployed:
        write(self_signed_pair(), chain=chain, key=key)
        await until(lambda: reloaded(deployed, "ok"))
        chain.write_text("no certificate")
        await until(lambda: reloaded(deployed, "failed"))
        result = await Load(deployed.address, CHAT, clients=4, limit=REQUESTS).run()
        await until(lambda: all_routed(deployed))
    assert result.failed == {}


def write(pair: CertificatePair, *, chain: Path, key: Path) -> None:
    for path, content in ((key, pair.key), (chain, pair.chain)):
        path.write_bytes(content)


async def reloaded(deployed: Deployment, result: str) -> bool:
    return await deployed.service.metric("extproc_tls_reloads_total", result=result) > 0


async def all_routed(deployed: Deployment) -> bool:
    return await deployed.service.metric("extproc_requests_total", outcome="routed") == REQUESTS


async def turned_away(deployed: Deployment) -> bool:
    return await deployed.service.metric("extproc_connections_closed_total", reason="tls_failed") > 0
