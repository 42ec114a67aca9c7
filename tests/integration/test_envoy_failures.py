"""What the real Envoy does when a router or a worker fails: who still gets an answer."""

import asyncio
import datetime as dt
import ipaddress
from collections import Counter
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.envoy import free_ports
from tests.support.envoy_stage import Stage, settings_for, stage, until

CLIENTS = 16
REQUESTS = 400


class Load:
    """``CLIENTS`` clients that send ``REQUESTS`` requests in all, and know when half is done."""

    def __init__(self, running: Stage) -> None:
        self._running = running
        self._left = REQUESTS
        self.statuses: Counter[int] = Counter()
        self.half = asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(self._client())

    async def _client(self) -> None:
        while self._left > 0:
            self._left -= 1
            if self._left <= REQUESTS // 2:
                self.half.set()
            self.statuses[(await self._running.post()).status] += 1


async def test_a_router_that_dies_fails_nobody(tmp_path: Path) -> None:
    async with stage(settings_for(tmp_path)) as running:
        load = Load(running)
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run())
            await load.half.wait()
            await running.processors[0].stop()
        assert load.statuses == {200: REQUESTS}


async def test_failing_closed_only_requests_in_the_hands_of_the_dead_router_fail(tmp_path: Path) -> None:
    async with stage(settings_for(tmp_path, envoy__fail_open=False)) as running:
        load = Load(running)
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run())
            await load.half.wait()
            await running.processors[0].stop()
        assert load.statuses[500] <= CLIENTS
        assert load.statuses[200] == REQUESTS - load.statuses[500]


async def test_a_draining_router_gets_no_new_streams_and_nobody_fails(tmp_path: Path) -> None:
    async with stage(settings_for(tmp_path, envoy__fail_open=False)) as running:
        draining, other = running.processors
        draining.serving = False

        async def noticed() -> bool:
            routers = (await running.envoy.clusters())["extproc"]
            return any("failed_active_health_check" in status for status in routers.values())

        await until(noticed)
        before = draining.streams
        load = Load(running)
        await load.run()
        assert load.statuses == {200: REQUESTS}
        assert (draining.streams, other.streams) == (before, REQUESTS)


async def test_with_every_router_draining_they_still_serve(tmp_path: Path) -> None:
    async with stage(settings_for(tmp_path, envoy__fail_open=False)) as running:
        for router in running.processors:
            router.serving = False

        async def noticed() -> bool:
            routers = (await running.envoy.clusters())["extproc"]
            return all("failed_active_health_check" in status for status in routers.values())

        await until(noticed)
        assert {(await running.post()).status for _ in range(10)} == {200}


async def test_without_any_router_envoy_balances_by_itself(tmp_path: Path) -> None:
    async with stage(settings_for(tmp_path), processors=0) as running:
        answers = [await running.post() for _ in range(40)]
        assert {answer.status for answer in answers} == {200}
        assert {answer.worker for answer in answers} == {one.address for one in running.workers}
        assert (await running.envoy.stats("http.clients.ext_proc."))["http.clients.ext_proc.failure_mode_allowed"] == 40


async def test_failing_closed_without_any_router_is_500(tmp_path: Path) -> None:
    async with stage(settings_for(tmp_path, envoy__fail_open=False), processors=0) as running:
        assert (await running.post()).status == 500


@pytest.mark.parametrize("kind", ["dead", "answers-503"])
async def test_the_next_of_the_list_serves_when_the_first_fails(kind: str, tmp_path: Path) -> None:
    async with stage(settings_for(tmp_path), workers=3) as running:
        first, second, _ = running.workers
        running.decide(f"{first.address},{second.address}")
        first.status = 503
        if kind == "dead":
            await first.stop()
        assert {(await running.post()).worker for _ in range(10)} == {second.address}


async def test_envoy_finds_a_worker_when_the_whole_list_fails(tmp_path: Path) -> None:
    async with stage(settings_for(tmp_path), workers=3) as running:
        first, second, third = running.workers
        running.decide(f"{first.address},{second.address}")
        first.status = second.status = 503
        assert {(await running.post()).worker for _ in range(4)} == {third.address}
        assert (first.requests, second.requests) == (4, 4), "each is tried once"


async def test_a_worker_that_dies_fails_no_request_that_envoy_balances(tmp_path: Path) -> None:
    async with stage(settings_for(tmp_path), workers=3) as running:
        await running.workers[0].stop()
        load = Load(running)
        await load.run()
        assert load.statuses == {200: REQUESTS}


async def test_more_requests_in_flight_than_envoys_own_breakers_allow(tmp_path: Path) -> None:
    """Every stream stays open until its answer ends, so the routers' cluster holds as many as the workers'."""
    many = 1100
    async with stage(settings_for(tmp_path), workers=1) as running:
        (worker,) = running.workers
        worker.gate.clear()
        async with asyncio.TaskGroup() as group:
            requests = [group.create_task(running.post()) for _ in range(many)]

            async def all_arrived() -> bool:
                return worker.requests == many

            await until(all_arrived)
            worker.gate.set()
        assert Counter(request.result().status for request in requests) == {200: many}


async def test_routers_are_reached_over_tls(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    changes = {"server__tls": "self_signed", "server__router_address": f"127.0.0.1:{port}", "supervisor__routers": 1}
    settings = settings_for(tmp_path, envoy__fail_open=False, **changes)
    async with stage(settings, processors=1, credentials=self_signed()) as running:
        chosen = running.workers[1]
        running.decide(chosen.address)
        assert {(await running.post()).worker for _ in range(4)} == {chosen.address}


def self_signed() -> grpc.ServerCredentials:
    """A certificate nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "router")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return grpc.ssl_server_credentials([(private, certificate.public_bytes(serialization.Encoding.PEM))])
