"""Time is the test's: waits end when it says so, and what the server was asked is counted."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Literal

import pytest

from extproc.config.address import TcpAddress
from extproc.config.dns_name import parse_dns_name
from extproc.config.fleet import WorkerSpec
from extproc.config.workers import MAX_WORKERS, IpAddress
from extproc.fleet.discovery.dns import DnsSource, Lookup
from extproc.fleet.discovery.dns_answers import Failed, Outcome, TtlBounds
from extproc.fleet.discovery.dns_lookup import DnsLookup, Target, server_resolver
from extproc.fleet.discovery.retry import Retry
from extproc.telemetry.metrics import DiscoveryMetrics
from extproc.telemetry.tasks import spawn
from tests.support.discovery import Sleeps, counted, watching
from tests.support.dns_server import DnsServer, dns_serving
from tests.support.workers_http import until

SERVICE = "_http._tcp.w.test."


class Stage:
    """A source over a real server, with time at a standstill."""

    def __init__(self, server: DnsServer) -> None:
        self.server = server
        self.sleeps = Sleeps()
        self.metrics = DiscoveryMetrics()

    def source(self, text: str, *, lookup: Lookup | None = None, models: tuple[str, ...] = ()) -> DnsSource:
        address = TcpAddress("127.0.0.1", self.server.port)
        return DnsSource(
            label="dns",
            name=parse_dns_name(text),
            models=models,
            lookup=lookup or DnsLookup(resolver=lambda: server_resolver(address), timeout_secs=10.0),
            ttl=TtlBounds(2.0, 300.0),
            retry=Retry(3.0, 30.0),
            metrics=self.metrics,
            sleep=self.sleeps,
        )

    async def round(self, questions: int) -> list[float]:
        """End the waits and let that many questions be asked; returns how long each is to wait now, sorted."""
        self.sleeps.wake()
        return await self.rest(questions)

    async def rest(self, questions: int) -> list[float]:
        await until(lambda: len(self.sleeps.waits) == questions)
        return sorted(self.sleeps.waits)

    def lookups(self, result: str) -> float:
        return counted(self.metrics.dns_lookups, source="dns", result=result)

    def faults(self, reason: str) -> float:
        return counted(self.metrics.faults, source="dns", reason=reason)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with dns_serving(DnsServer()) as server:
        yield Stage(server)


async def test_addresses_of_both_kinds_are_workers_in_the_form_that_envoy_prints(stage: Stage) -> None:
    stage.server.records = {("w.test.", "A"): ["10.0.0.2", "10.0.0.1"], ("w.test.", "AAAA"): ["FD00:0:0::1"]}
    async with watching(stage.source("w.test:8000", models=("m", "n"))) as reports:
        await until(lambda: reports.lists)
        assert [lists.workers for lists in reports.lists] == [
            tuple(
                WorkerSpec(address=address, models=("m", "n"))
                for address in ("10.0.0.1:8000", "10.0.0.2:8000", "[fd00::1]:8000")
            )
        ]


async def test_each_question_waits_for_its_ttl_within_the_bounds(stage: Stage) -> None:
    stage.server.records = {("w.test.", "A"): ["10.0.0.1"], ("w.test.", "AAAA"): ["fd00::1"]}
    stage.server.ttl = 42
    async with watching(stage.source("w.test:8000")):
        assert await stage.rest(2) == [42, 42]
        stage.server.ttl = 1
        assert await stage.round(2) == [2, 2]
        stage.server.ttl = 86_400
        assert await stage.round(2) == [300, 300]
        assert stage.server.asked("w.test.", "A") == stage.server.asked("w.test.", "AAAA") == 3


async def test_nothing_is_asked_before_an_answer_has_run_out(stage: Stage) -> None:
    stage.server.records = {("w.test.", "A"): ["10.0.0.1"]}
    async with watching(stage.source("w.test:8000")) as reports:
        await stage.rest(2)
        stage.server.records = {("w.test.", "A"): ["10.0.0.9"]}
        await asyncio.sleep(0.1)
        assert len(stage.server.questions) == 2
        assert reports.last == ["10.0.0.1:8000"]
        await stage.round(2)
        await until(lambda: reports.last == ["10.0.0.9:8000"])


async def test_records_in_another_order_are_no_change(stage: Stage) -> None:
    stage.server.records = {("w.test.", "A"): ["10.0.0.1", "10.0.0.2"]}
    async with watching(stage.source("w.test:8000")) as reports:
        await stage.rest(2)
        stage.server.records = {("w.test.", "A"): ["10.0.0.2", "10.0.0.1"]}
        await stage.round(2)
        stage.server.records = {("w.test.", "A"): ["10.0.0.3"]}
        await stage.round(2)
        await until(lambda: len(reports.lists) == 2)
        assert reports.addresses == [["10.0.0.1:8000", "10.0.0.2:8000"], ["10.0.0.3:8000"]]


async def test_a_failure_keeps_the_workers_is_told_once_and_retried_with_growing_waits(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    stage.server.records = {("w.test.", "A"): ["10.0.0.1"], ("w.test.", "AAAA"): ["fd00::1"]}
    async with watching(stage.source("w.test:8000")) as reports:
        await stage.rest(2)
        stage.server.failing = {"A"}
        assert await stage.round(2) == [3, 60]
        assert await stage.round(2) == [6, 60]
        assert await stage.round(2) == [12, 60]
        assert stage.lookups("failed") == 3
        assert reports.addresses == [["10.0.0.1:8000", "[fd00::1]:8000"]]
        stage.server.failing.clear()
        assert await stage.round(2) == [60, 60]
    told = [message.partition(", what")[0] for message in caplog.messages]
    assert told == ["A records of w.test cannot be looked up", "A records of w.test can be looked up again"]


async def test_workers_go_only_when_the_server_says_so_twice(stage: Stage) -> None:
    stage.server.records = {("w.test.", "A"): ["10.0.0.1"]}
    async with watching(stage.source("w.test:8000")) as reports:
        await stage.rest(2)
        await stage.round(2)
        stage.server.records = {}
        assert await stage.round(2) == [5, 5]
        assert reports.last == ["10.0.0.1:8000"]
        await stage.round(2)
        await until(lambda: reports.last == [])
        assert stage.lookups("nothing") == 6


async def test_one_kind_of_address_is_enough(stage: Stage) -> None:
    stage.server.records = {("w.test.", "A"): ["10.0.0.1"]}
    stage.server.failing = {"AAAA"}
    async with watching(stage.source("w.test:8000")) as reports:
        await until(lambda: reports.lists)
        assert reports.addresses == [["10.0.0.1:8000"]]


async def test_no_worker_at_first_is_reported_only_when_it_is_certain(stage: Stage) -> None:
    stage.server.failing = {"A"}
    async with watching(stage.source("w.test:8000")) as reports:
        await stage.rest(2)
        await stage.round(2)
        assert reports.lists == []
        stage.server.failing = set()
        await stage.round(2)
        assert reports.lists == []
        await stage.round(2)
        await until(lambda: reports.addresses == [[]])


async def test_services_have_the_ports_of_their_records(stage: Stage) -> None:
    stage.server.records = {
        (SERVICE, "SRV"): ["0 0 81 a.test.", "0 0 82 a.test.", "0 0 81 b.test."],
        ("a.test.", "A"): ["10.0.0.1"],
        ("b.test.", "AAAA"): ["fd00::2"],
    }
    async with watching(stage.source("srv:_http._tcp.w.test")) as reports:
        await until(lambda: reports.lists)
        assert reports.addresses == [["10.0.0.1:81", "10.0.0.1:82", "[fd00::2]:81"]]
        assert await stage.rest(5) == [5, 5, 60, 60, 60]


async def test_a_service_whose_hosts_are_all_replaced_has_no_gap(stage: Stage) -> None:
    stage.server.records = {(SERVICE, "SRV"): ["0 0 80 a.test."], ("a.test.", "A"): ["10.0.0.1"]}
    async with watching(stage.source("srv:_http._tcp.w.test")) as reports:
        await stage.rest(3)
        stage.server.records = {(SERVICE, "SRV"): ["0 0 80 b.test."], ("b.test.", "A"): ["10.0.0.2"]}
        await stage.round(3)
        await until(lambda: reports.last == ["10.0.0.2:80"])
        assert reports.addresses == [["10.0.0.1:80"], ["10.0.0.2:80"]]
        stage.server.questions.clear()
        await stage.round(3)
        assert {name for name, _ in stage.server.questions} == {SERVICE, "b.test."}


async def test_a_host_of_a_service_that_cannot_be_looked_up_keeps_no_other_from_use(stage: Stage) -> None:
    class OneFails(DnsLookup):
        async def addresses(self, host: str, kind: Literal["A", "AAAA"]) -> Outcome[IpAddress]:
            return Failed("timeout", "") if host == "b.test." else await super().addresses(host, kind)

    address = TcpAddress("127.0.0.1", stage.server.port)
    lookup = OneFails(resolver=lambda: server_resolver(address), timeout_secs=10.0)
    stage.server.records = {(SERVICE, "SRV"): ["0 0 80 a.test.", "0 0 80 b.test."], ("a.test.", "A"): ["10.0.0.1"]}
    async with watching(stage.source("srv:_http._tcp.w.test", lookup=lookup)) as reports:
        await until(lambda: reports.lists)
        assert reports.addresses == [["10.0.0.1:80"]]


async def test_what_nothing_can_connect_to_is_left_out_and_told_once(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.server.records = {("w.test.", "A"): ["0.0.0.0", "10.0.0.1", "224.0.0.1"]}
    async with watching(stage.source("w.test:8000")) as reports:
        await stage.rest(2)
        await stage.round(2)
        assert reports.addresses == [["10.0.0.1:8000"]]
        assert stage.faults("invalid") == 2
        assert len(caplog.messages) == 1
        stage.server.records = {("w.test.", "A"): ["0.0.0.0"]}
        await stage.round(2)
        assert reports.last == ["10.0.0.1:8000"], "a name that points nowhere is asked again first"
        await stage.round(2)
        await until(lambda: reports.last == [])


async def test_a_service_record_without_a_port_is_left_out(stage: Stage) -> None:
    stage.server.records = {(SERVICE, "SRV"): ["0 0 0 a.test.", "0 0 80 a.test."], ("a.test.", "A"): ["10.0.0.1"]}
    async with watching(stage.source("srv:_http._tcp.w.test")) as reports:
        await until(lambda: reports.lists)
        assert reports.addresses == [["10.0.0.1:80"]]
        assert stage.faults("invalid") == 1


async def test_workers_beyond_the_limit_are_left_out(stage: Stage) -> None:
    stage.server.records = {("w.test.", "A"): [f"10.1.{n // 250}.{n % 250}" for n in range(MAX_WORKERS + 3)]}
    async with watching(stage.source("w.test:8000")) as reports:
        await until(lambda: reports.lists)
        assert len(reports.lists[0].workers) == MAX_WORKERS
        assert stage.faults("too_many") == 3


class StubbornLookup:
    """Loses the first cancellation, as `asyncio.wait_for` may."""

    def __init__(self) -> None:
        self.asking = 0

    async def addresses(self, host: str, kind: Literal["A", "AAAA"]) -> Outcome[IpAddress]:
        self.asking += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.asking -= 1
        return Failed("timeout", "")

    async def targets(self, name: str) -> Outcome[Target]:
        raise AssertionError(name)


async def test_ends_even_when_a_look_up_loses_the_cancellation(stage: Stage) -> None:
    lookup = StubbornLookup()
    task = spawn(stage.source("w.test:8000", lookup=lookup).watch(lambda _: None), name="watch")
    await until(lambda: lookup.asking == 2)
    task.cancel()
    await until(task.done)
    assert task.cancelled()
    assert lookup.asking == 0
