"""A DNS server on loopback, UDP and TCP, with the records of a test."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

PORT_TRIES = 20
UDP_BYTES = 512
"""The longest UDP answer to a question without EDNS."""


class DnsServer:
    """Answers from ``records``, which a test may change at any time; names end in a dot.

    ``failing`` and ``silent`` hold kinds of questions that get SERVFAIL, or no answer. An answer that there is nothing
    carries ``negative_ttl``, unless that is None. ``questions`` are the name and kind of every one asked.
    """

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], list[str]] = {}
        self.ttl = 60
        self.negative_ttl: int | None = 5
        self.failing: set[str] = set()
        self.silent: set[str] = set()
        self.questions: list[tuple[str, str]] = []
        self.tcp_questions = 0
        self.port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def asked(self, name: str, kind: str) -> int:
        """How often a question was asked."""
        return self.questions.count((name, kind))

    def answer(self, wire: bytes) -> dns.message.Message | None:
        question = dns.message.from_wire(wire)
        (rrset,) = question.question
        name, kind = str(rrset.name), dns.rdatatype.to_text(rrset.rdtype)
        self.questions.append((name, kind))
        if kind in self.silent:
            return None
        response = dns.message.make_response(question)
        if kind in self.failing:
            response.set_rcode(dns.rcode.SERVFAIL)
        else:
            self._fill(response, name, kind)
        return response

    def _fill(self, response: dns.message.Message, name: str, kind: str) -> None:
        while alias := self.records.get((name, "CNAME")):
            response.answer.append(dns.rrset.from_text(name, self.ttl, "IN", "CNAME", *alias))
            name = alias[0]
        if records := self.records.get((name, kind)):
            response.answer.append(dns.rrset.from_text(name, self.ttl, "IN", kind, *records))
            return
        if not any(known == name for known, _ in self.records):
            response.set_rcode(dns.rcode.NXDOMAIN)
        if self.negative_ttl is not None:
            text = f"ns.test. admin.test. 1 1 1 1 {self.negative_ttl}"
            response.authority.append(dns.rrset.from_text(".", self.negative_ttl, "IN", "SOA", text))

    async def serve_stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tcp_questions += 1
        length = int.from_bytes(await reader.readexactly(2), "big")
        response = self.answer(await reader.readexactly(length))
        if response is not None:
            wire = response.to_wire(max_size=65535)
            writer.write(len(wire).to_bytes(2, "big") + wire)
            await writer.drain()
        writer.close()
        await writer.wait_closed()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, peer: tuple[str, int]) -> None:
        response = self._server.answer(data)
        if response is None:
            return
        wire = response.to_wire(max_size=65535)
        if len(wire) > UDP_BYTES:
            response.answer.clear()
            response.flags |= dns.flags.TC
            wire = response.to_wire()
        assert self._transport is not None
        self._transport.sendto(wire, peer)


@asynccontextmanager
async def dns_serving(server: DnsServer) -> AsyncIterator[DnsServer]:
    """Listen on loopback while the block runs."""
    loop = asyncio.get_running_loop()
    stream, datagrams = _one_port()
    server.port = stream.getsockname()[1]
    async with await asyncio.start_server(server.serve_stream, sock=stream):
        transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(server), sock=datagrams)
        try:
            yield server
        finally:
            transport.close()


def _one_port() -> tuple[socket.socket, socket.socket]:
    """A socket for streams and one for datagrams, with the same port, which is free for both."""
    for _ in range(PORT_TRIES):
        stream = socket.create_server(("127.0.0.1", 0))
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.setblocking(False)
        try:
            datagrams.bind(stream.getsockname())
        except OSError:
            stream.close()
            datagrams.close()
        else:
            return stream, datagrams
    raise AssertionError(f"no port is free for both kinds of sockets, in {PORT_TRIES} tries")
