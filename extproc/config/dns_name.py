"""A name that workers are found by: ``HOST:PORT`` for its addresses, ``srv:NAME`` for its service records."""

import re
from dataclasses import dataclass

from extproc.config.address import TcpAddress, parse
from extproc.config.fault import shown

_SRV = "srv:"
_MAX_LENGTH = 253
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")


@dataclass(frozen=True, slots=True)
class DnsName:
    """What is asked for. ``port`` is None for service records, which carry the port."""

    name: str
    port: int | None

    def __str__(self) -> str:
        return f"{_SRV}{self.name}" if self.port is None else f"{self.name}:{self.port}"


def parse_dns_name(text: str) -> DnsName:
    """Read one entry of ``discovery.dns_names``; ``str`` of the result is the text again.

    Raises ``ValueError`` saying what it must be.
    """
    if text.startswith(_SRV):
        name = text.removeprefix(_SRV)
        if not _is_name(name):
            raise ValueError(f"must be `srv:NAME` without a port, such as `srv:_http._tcp.vllm.svc`; is {shown(text)}")
        return DnsName(name, None)
    wanted = f"must be `HOST:PORT` with the name of a host, or `srv:NAME`; is {shown(text)}"
    try:
        address = parse(text)
    except ValueError:
        raise ValueError(wanted) from None
    if not isinstance(address, TcpAddress) or not address.port:
        raise ValueError(wanted)
    if address.is_numeric:
        raise ValueError(f"is an address, not a name: it belongs in `workers`; is {shown(text)}")
    if not _is_name(address.host):
        raise ValueError(wanted)
    return DnsName(address.host, address.port)


def _is_name(name: str) -> bool:
    return len(name) <= _MAX_LENGTH and bool(_NAME.fullmatch(name))
