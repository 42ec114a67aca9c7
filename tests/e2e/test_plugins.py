"""A package of plugins, built and installed by pip as its users would, at work behind the real Envoy."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.deployment import data_plane
from tests.support.load import Answer, post, read_answer
from tests.support.service import Service
from tests.support.simulated_worker import SimulatedWorker
from tests.support.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

EXAMPLE = Path(__file__).parents[1] / "plugin_example"


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory into which the example was installed."""
    site = tmp_path_factory.mktemp("site")
    command = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(site),
        str(EXAMPLE),
    ]
    subprocess.run([sys.executable, *command], check=True, timeout=120)
    return site


async def ask(port: int, *, model: str = "tiny", tenant: str = "") -> Answer:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(post("/v1/chat/completions", body, {"x-tenant": tenant} if tenant else None))
        return await read_answer(reader)
    finally:
        writer.close()


async def test_a_discovery_source_a_policy_and_a_hook_work_together(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")]))
    addresses = tmp_path / "addresses"
    with SimulatedWorker.start() as one, SimulatedWorker.start() as two:
        addresses.write_text(f"{one.address}\n{two.address}\n")
        config: dict[str, Any] = {
            "workers": [],
            "routing": {"policy": "tenant_affinity", "decision_header": True},
            "discovery": {"plugins": ["address_list"]},
            "hooks": {"enabled": ["tenants"]},
            "plugins": [
                {"name": "address_list", "options": json.dumps({"file": str(addresses)})},
                {"name": "tenants", "options": json.dumps({"blocked": ["spammer"], "models": {"fast": "tiny"}})},
            ],
            "envoy": {"forwarded_headers": ["content-length", "x-tenant"]},
        }
        async with Service(directory=tmp_path, config=config) as service, data_plane(service) as envoy:
            await until(lambda: _all_healthy(service, {one.address, two.address}))
            by_tenant = {
                tenant: [await ask(envoy.listen, tenant=tenant) for _ in range(3)] for tenant in ("a", "b", "d")
            }
            for answers in by_tenant.values():
                assert {answer.status for answer in answers} == {200}
                assert len({answer.headers["x-worker"] for answer in answers}) == 1
            assert len({answers[0].headers["x-worker"] for answers in by_tenant.values()}) == 2
            decision = by_tenant["a"][0].headers["x-extproc-decision"]
            assert "policy=tenant_affinity; reason=plugin" in decision

            rewritten = await ask(envoy.listen, model="fast", tenant="a")
            assert rewritten.status == 200, rewritten
            assert json.loads(rewritten.body)["model"] == "tiny"

            refused = await ask(envoy.listen, tenant="spammer")
            assert (refused.status, refused.headers["x-extproc-reason"]) == (403, "hook_refused")
            assert json.loads(refused.body)["error"]["message"] == "This tenant is blocked."

            seen = {worker.address: worker.requests() for worker in (one, two)}
            assert '["x-tenant-tier", "gold"]' in json.dumps(seen)
            await until(lambda: _counted(service, ok=10, refused=1))

            addresses.write_text(f"{two.address}\n")
            await until(lambda: _all_healthy(service, {two.address}))
            assert (await ask(envoy.listen, tenant="a")).headers["x-worker"] == two.address


async def _all_healthy(service: Service, addresses: set[str]) -> bool:
    return {row["address"] for row in await service.workers() if row["healthy"]} == addresses


async def _counted(service: Service, *, ok: int, refused: int) -> bool:
    return (
        await service.metric("extproc_hooks_total", hook="tenants", result="ok") == ok
        and await service.metric("extproc_hooks_total", hook="tenants", result="refused") == refused
    )
