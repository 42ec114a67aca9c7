"""Questions to DNS servers, with the library ``dnspython``."""

import asyncio
import ipaddress
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import dns.asyncresolver
import dns.exception
import dns.message
import dns.name
import dns.rdatatype
import dns.resolver

from extproc.config.address import TcpAddress
from extproc.config.workers import IpAddress
from extproc.fleet.discovery.dns_answers import Failed, Found, Nothing, Outcome

MAX_PARALLEL = 32
"""Questions in flight at once, of all names together."""

TRIES = 3
"""Tries that a lost packet or a dead server leaves within one look-up's time."""


class Target(NamedTuple):
    """Where a service record points: a complete name with its final dot, and a port."""

    host: str
    port: int


def system_resolver(path: str = "/etc/resolv.conf") -> dns.asyncresolver.Resolver:
    """Return who asks the servers of this machine, and about names that its search list completes."""
    resolver = dns.asyncresolver.Resolver(path)
    resolver.use_search_by_default = True
    return resolver


def server_resolver(server: TcpAddress) -> dns.asyncresolver.Resolver:
    """Return who asks one server, about names taken to be complete."""
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = [server.host]
    resolver.port = server.port
    return resolver


class DnsLookup:
    """Asks questions, each within ``timeout_secs`` over all servers and tries.

    ``resolver`` is called for every question, so that a changed ``/etc/resolv.conf`` is seen. A truncated answer is
    asked for again over TCP.
    """

    def __init__(self, *, resolver: Callable[[], dns.asyncresolver.Resolver], timeout_secs: float) -> None:
        self._resolver = resolver
        self._timeout_secs = timeout_secs
        self._parallel = asyncio.Semaphore(MAX_PARALLEL)

    async def addresses(self, host: str, kind: Literal["A", "AAAA"]) -> Outcome[IpAddress]:
        """Ask for the addresses of a host."""
        answer = await self._ask(host, kind)
        if not isinstance(answer, dns.resolver.Answer):
            return answer
        return _found(answer, frozenset(ipaddress.ip_address(record.address) for record in answer))

    async def targets(self, name: str) -> Outcome[Target]:
        """Ask for the targets of a service: those of the best priority, without the one that stands for none."""
        answer = await self._ask(name, "SRV")
        if not isinstance(answer, dns.resolver.Answer):
            return answer
        records = [record for record in answer if record.target != dns.name.root]
        best = min((record.priority for record in records), default=0)
        targets = frozenset(Target(str(record.target), record.port) for record in records if record.priority == best)
        return _found(answer, targets)

    async def _ask(self, name: str, kind: str) -> dns.resolver.Answer | Nothing | Failed:
        """Return an answer with records, or what there is instead."""
        try:
            async with self._parallel:
                resolver = self._resolver()
                resolver.lifetime = self._timeout_secs
                resolver.timeout = self._timeout_secs / TRIES
                answer = await resolver.resolve(name, kind, raise_on_no_answer=False)
        except dns.resolver.NXDOMAIN as error:
            # The responses of all names that the search list makes; the shortest life among them counts.
            responses = error.responses().values()  # type: ignore[no-untyped-call]
            return Nothing(min(map(_negative_ttl, responses), default=0.0))
        except dns.exception.Timeout:
            return Failed("timeout", f"no answer within {self._timeout_secs:g} s")
        except (dns.exception.DNSException, OSError) as error:
            return Failed("failed", str(error) or type(error).__name__)
        return answer if answer.rrset else Nothing(_negative_ttl(answer.response))


def _found(answer: dns.resolver.Answer, records: frozenset[Any]) -> Outcome[Any]:
    # The life of the whole chain: a CNAME's, too.
    ttl_secs = answer.chaining_result.minimum_ttl
    return Found(records, ttl_secs) if records else Nothing(ttl_secs)


def _negative_ttl(response: dns.message.QueryMessage) -> float:
    """Return how long an answer that there is nothing may be kept: not at all when it does not say so."""
    if any(rrset.rdtype == dns.rdatatype.SOA for rrset in response.authority):
        return response.resolve_chaining().minimum_ttl
    return 0.0
