"""Addresses, from the settings' notation to Envoy's."""

import ipaddress
import os

from envoy_data_plane.envoy.config.core.v3 import Address, Pipe, SocketAddress

from extproc.config.server import ServerSettings
from extproc.config.supervisor import SupervisorSettings
from extproc.errors import ConfigurationError

UNIX = "unix:"
LAST_PORT = 0xFFFF


def router_addresses(server: ServerSettings, supervisor: SupervisorSettings) -> tuple[str, ...]:
    """Return the own endpoint of every router, in order: ``unix:PATH`` or ``HOST:PORT``.

    Zero routers means one per core that this process may use.
    """
    count = supervisor.routers or len(os.sched_getaffinity(0))
    return tuple(router_address(server, supervisor, index) for index in range(count))


def router_address(server: ServerSettings, supervisor: SupervisorSettings, index: int) -> str:
    """Return the own endpoint of one router: its socket's path, or the configured port plus its index."""
    if server.router_address.startswith(UNIX):
        return fill(server.router_address, supervisor, index)
    host, port = split(server.router_address, setting="server.router_address")
    return join(host, port + index)


def fill(template: str, supervisor: SupervisorSettings, index: int = 0) -> str:
    """Fill ``{run_dir}`` and ``{index}`` into a path of the settings; other braces stay as they are."""
    return template.replace("{run_dir}", supervisor.run_dir).replace("{index}", str(index))


def split(address: str, *, setting: str) -> tuple[str, int]:
    """Split ``IP:PORT`` or ``[IPv6]:PORT``.

    Envoy binds and dials numbers only, so a name is refused. Raises :class:`ConfigurationError` naming ``setting``.
    """
    host, _, port = address.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host.removeprefix("[").removesuffix("]")
    try:
        ipaddress.ip_address(host)
        number = int(port)
    except ValueError:
        raise ConfigurationError([f"{setting}: {address!r} is not IP:PORT"]) from None
    if not 0 < number <= LAST_PORT:
        raise ConfigurationError([f"{setting}: {address!r} has no port from 1 to 65535"])
    return host, number


def join(host: str, port: int) -> str:
    """Return ``IP:PORT``, an IPv6 address in brackets, as Envoy prints a host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen_address(address: str, *, setting: str) -> Address:
    """Return where Envoy listens."""
    host, port = split(address, setting=setting)
    return Address(socket_address=SocketAddress(address=host, port_value=port))


def dial_address(address: str, *, setting: str) -> Address:
    """Return where Envoy connects: a pipe for ``unix:PATH``; loopback for a router that listens on every interface."""
    if address.startswith(UNIX):
        return Address(pipe=Pipe(path=address.removeprefix(UNIX)))
    host, port = split(address, setting=setting)
    parsed = ipaddress.ip_address(host)
    if parsed.is_unspecified:
        host = "127.0.0.1" if parsed.version == 4 else "::1"  # noqa: PLR2004 - the versions of IP
    return Address(socket_address=SocketAddress(address=host, port_value=port))
