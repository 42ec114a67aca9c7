"""Addresses, from the settings' notation to Envoy's."""

import ipaddress

from envoy_data_plane.envoy.config.core.v3 import Address, Pipe, SocketAddress

from extproc.config.endpoints import UNIX
from extproc.errors import ConfigurationError

LAST_PORT = 0xFFFF
LOOPBACK = {4: "127.0.0.1", 6: "::1"}


def listen_address(address: str, *, setting: str) -> Address:
    """Return where Envoy listens. Raises :class:`ConfigurationError` naming ``setting``."""
    host, port = _split(address, setting=setting)
    return Address(socket_address=SocketAddress(address=host, port_value=port))


def dial_address(address: str, *, setting: str) -> Address:
    """Return where Envoy connects: a pipe for ``unix:PATH``; loopback for a router that listens on every interface.

    Raises :class:`ConfigurationError` naming ``setting``.
    """
    if address.startswith(UNIX):
        return Address(pipe=Pipe(path=address.removeprefix(UNIX)))
    host, port = _split(address, setting=setting)
    parsed = ipaddress.ip_address(host)
    if parsed.is_unspecified:
        host = LOOPBACK[parsed.version]
    return Address(socket_address=SocketAddress(address=host, port_value=port))


def _split(address: str, *, setting: str) -> tuple[str, int]:
    """Split ``IP:PORT`` or ``[IPv6]:PORT``. Envoy takes numbers only, so a name other than localhost is refused."""
    host, _, port = address.rpartition(":")
    host = LOOPBACK[4] if host == "localhost" else host.removeprefix("[").removesuffix("]")
    try:
        ipaddress.ip_address(host)
        number = int(port)
    except ValueError:
        raise ConfigurationError([f"{setting}: {address!r} is not IP:PORT"]) from None
    if not 0 < number <= LAST_PORT:
        raise ConfigurationError([f"{setting}: {address!r} has no port from 1 to {LAST_PORT}"])
    return host, number
