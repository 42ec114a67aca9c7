"""Addresses, from the settings' notation to Envoy's."""

import ipaddress

from envoy_data_plane.envoy.config.core.v3 import Address, Pipe, SocketAddress

from extproc.config.address import TcpAddress, UnixAddress, parse
from extproc.errors import ConfigurationError

LOOPBACK = {4: "127.0.0.1", 6: "::1"}


def listen_address(address: str, *, setting: str) -> Address:
    """Return where Envoy listens. Raises :class:`ConfigurationError` naming ``setting``."""
    host, port = _numbers(_parse(address, setting=setting), setting=setting)
    return Address(socket_address=SocketAddress(address=str(host), port_value=port))


def dial_address(address: str, *, setting: str) -> Address:
    """Return where Envoy connects: a pipe for ``unix:PATH``; loopback for a router that listens on every interface.

    Raises :class:`ConfigurationError` naming ``setting``.
    """
    if isinstance(parsed := _parse(address, setting=setting), UnixAddress):
        return Address(pipe=Pipe(path=parsed.path))
    host, port = _numbers(parsed, setting=setting)
    name = LOOPBACK[host.version] if host.is_unspecified else str(host)
    return Address(socket_address=SocketAddress(address=name, port_value=port))


def _parse(address: str, *, setting: str) -> UnixAddress | TcpAddress:
    try:
        return parse(address)
    except ValueError as error:
        raise ConfigurationError([f"{setting}: {error}"]) from None


def _numbers(
    address: UnixAddress | TcpAddress, *, setting: str
) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]:
    """Return host and port. Envoy takes numbers only, so a name other than localhost is refused."""
    if not isinstance(address, TcpAddress) or not address.port:
        raise ConfigurationError([f"{setting}: {str(address)!r} is not IP:PORT with a port from 1"])
    host = LOOPBACK[4] if address.host == "localhost" else address.host
    try:
        return ipaddress.ip_address(host), address.port
    except ValueError:
        raise ConfigurationError([f"{setting}: {str(address)!r} has no IP address before the port"]) from None
