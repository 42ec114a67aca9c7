import ipaddress
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from extproc.config.address import TcpAddress
from extproc.fleet.discovery.dns_answers import Failed, Found, Nothing
from extproc.fleet.discovery.dns_lookup import DnsLookup, Target, server_resolver, system_resolver
from tests.support.dns_server import DnsServer, dns_serving


@pytest.fixture
async def server() -> AsyncIterator[DnsServer]:
    async with dns_serving(DnsServer()) as made:
        yield made


def lookup(server: DnsServer, *, timeout_secs: float = 10.0) -> DnsLookup:
    return DnsLookup(resolver=lambda: server_resolver(TcpAddress("127.0.0.1", server.port)), timeout_secs=timeout_secs)


def ips(*texts: str) -> frozenset[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    return frozenset(map(ipaddress.ip_address, texts))


async def test_finds_addresses_of_both_kinds_with_their_ttl(server: DnsServer) -> None:
    server.records = {("w.test.", "A"): ["10.0.0.2", "10.0.0.1"], ("w.test.", "AAAA"): ["FD00:0::1"]}
    server.ttl = 17
    assert await lookup(server).addresses("w.test", "A") == Found(ips("10.0.0.1", "10.0.0.2"), 17)
    assert await lookup(server).addresses("w.test.", "AAAA") == Found(ips("fd00::1"), 17)


async def test_follows_aliases(server: DnsServer) -> None:
    server.records = {("w.test.", "CNAME"): ["v.test."], ("v.test.", "A"): ["10.0.0.1"]}
    assert await lookup(server).addresses("w.test", "A") == Found(ips("10.0.0.1"), 60)


async def test_finds_the_targets_of_the_best_priority(server: DnsServer) -> None:
    server.records = {("_h._tcp.w.test.", "SRV"): ["5 1 81 a.test.", "5 9 80 b.test.", "6 1 80 c.test."]}
    found = await lookup(server).targets("_h._tcp.w.test")
    assert found == Found(frozenset({Target("a.test.", 81), Target("b.test.", 80)}), 60)


async def test_a_service_that_says_it_is_not_there_is_not_there(server: DnsServer) -> None:
    server.records = {("_h._tcp.w.test.", "SRV"): ["0 0 0 ."]}
    assert await lookup(server).targets("_h._tcp.w.test") == Nothing(60)


@pytest.mark.parametrize(("negative_ttl", "ttl"), [(7, 7), (None, 0)])
async def test_no_such_name_and_no_such_records_are_nothing_for_as_long_as_the_zone_says(
    server: DnsServer, negative_ttl: int | None, ttl: float
) -> None:
    server.negative_ttl = negative_ttl
    server.records = {("w.test.", "A"): ["10.0.0.1"]}
    assert await lookup(server).addresses("w.test", "AAAA") == Nothing(ttl)
    assert await lookup(server).addresses("v.test", "A") == Nothing(ttl)


async def test_a_server_that_cannot_answer_is_a_failure_with_a_reason(server: DnsServer) -> None:
    server.failing = {"A"}
    outcome = await lookup(server).addresses("w.test", "A")
    assert isinstance(outcome, Failed)
    assert outcome.result == "failed"
    assert "SERVFAIL" in outcome.reason


async def test_a_server_that_does_not_answer_is_tried_again_within_the_time(server: DnsServer) -> None:
    server.silent = {"A"}
    outcome = await lookup(server, timeout_secs=0.5).addresses("w.test", "A")
    assert outcome == Failed("timeout", "no answer within 0.5 s")
    assert server.asked("w.test.", "A") >= 2


async def test_an_answer_too_long_for_a_datagram_is_asked_for_over_tcp(server: DnsServer) -> None:
    addresses = [f"10.1.{n // 250}.{n % 250}" for n in range(1000)]
    server.records = {("w.test.", "A"): addresses}
    assert await lookup(server).addresses("w.test", "A") == Found(ips(*addresses), 60)
    assert server.tcp_questions == 1


async def test_the_search_list_of_the_machine_completes_names(server: DnsServer, tmp_path: Path) -> None:
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text("nameserver 127.0.0.1\nsearch a.test b.test\noptions ndots:5\n")
    server.records = {("w.b.test.", "A"): ["10.0.0.1"]}

    def resolver() -> object:
        made = system_resolver(str(resolv_conf))
        made.port = server.port
        return made

    asks = DnsLookup(resolver=resolver, timeout_secs=10.0)  # type: ignore[arg-type]
    assert await asks.addresses("w", "A") == Found(ips("10.0.0.1"), 60)
    assert [name for name, _ in server.questions] == ["w.a.test.", "w.b.test."]
    assert await asks.addresses("w.test.", "A") == Nothing(5)
    assert server.questions[2:] == [("w.test.", "A")]


async def test_a_machine_without_servers_is_a_failure(tmp_path: Path) -> None:
    asks = DnsLookup(resolver=lambda: system_resolver(str(tmp_path / "missing")), timeout_secs=1.0)
    outcome = await asks.addresses("w.test", "A")
    assert isinstance(outcome, Failed)
    assert outcome.result == "failed"
