"""Where the processes and Envoy listen: every endpoint readable, reachable by Envoy, and none taken twice."""

import dataclasses
import ipaddress
from collections.abc import Iterable
from pathlib import PurePosixPath

from extproc.config.address import TcpAddress, UnixAddress, parse
from extproc.config.endpoints import UNIX, router_address, router_count
from extproc.config.fault import Fault, shown
from extproc.config.settings import Settings

LAST_PORT = 0xFFFF
_LOOPBACK = "127.0.0.1"
_ROUTER = "server.router_address"


@dataclasses.dataclass(frozen=True, slots=True)
class _Endpoint:
    """One TCP endpoint that will be listened on; ``owner`` is the setting it comes from."""

    owner: str
    address: TcpAddress

    def collides_with(self, other: "_Endpoint") -> bool:
        """Whether both cannot be listened on; port 0 stands for any free port."""
        if self.address.port != other.address.port or not self.address.port:
            return False
        mine, theirs = self.address.host, other.address.host
        return mine == theirs or _is_wildcard(mine) or _is_wildcard(theirs)


def find_listen_faults(settings: Settings) -> list[Fault]:
    """Return what is wrong with the addresses to listen on."""
    faults: list[Fault] = []
    endpoints: list[_Endpoint] = []
    for path, text, for_envoy in (
        ("envoy.listen_address", settings.envoy.listen_address, True),
        ("envoy.admin_address", settings.envoy.admin_address, True),
        ("admin.address", settings.admin.address, False),
        ("server.shared_address", settings.server.shared_address, False),
    ):
        if path == "server.shared_address" and not text:
            continue
        try:
            endpoints.append(_Endpoint(path, _tcp(text, numbers_only=for_envoy)))
        except ValueError as error:
            faults.append(Fault(path, str(error)))
    router_endpoints, router_faults = _routers(settings)
    return faults + router_faults + _collisions([*endpoints, *router_endpoints])


def _routers(settings: Settings) -> tuple[list[_Endpoint], list[Fault]]:
    template = settings.server.router_address
    if template.startswith(UNIX):
        problem = _unix_problem(settings, template.removeprefix(UNIX))
        return [], [Fault(_ROUTER, problem, ("supervisor.run_dir", "supervisor.routers"))] if problem else []
    try:
        first = _tcp(template, numbers_only=True)
    except ValueError as error:
        return [], [Fault(_ROUTER, str(error))]
    count = router_count(settings)
    last_port = first.port + count - 1
    if last_port > LAST_PORT:
        problem = f"leaves no port for each of {count} routers: the last one would be {last_port}"
        return [], [Fault(_ROUTER, problem, ("supervisor.routers",))]
    return [_Endpoint(_ROUTER, TcpAddress(first.host, first.port + index)) for index in range(count)], []


def _unix_problem(settings: Settings, template: str) -> str:
    if "{index}" not in template:
        return "must contain `{index}`: every router has a socket of its own"
    if unknown := unknown_placeholder(template, "{run_dir}", "{index}"):
        return unknown
    try:
        # The last router's path is the longest.
        address = parse(router_address(settings, router_count(settings) - 1))
    except ValueError as error:
        return str(error)
    if isinstance(address, UnixAddress) and not PurePosixPath(address.path).is_absolute():
        return f"must be an absolute path; is {shown(address.path)}"
    return ""


def unknown_placeholder(template: str, *known: str) -> str:
    """Return what to say when braces are left besides the known placeholders, or nothing."""
    for placeholder in known:
        template = template.replace(placeholder, "")
    if "{" in template or "}" in template:
        return f"knows only {' and '.join(f'`{placeholder}`' for placeholder in known)} in braces"
    return ""


def _tcp(text: str, *, numbers_only: bool) -> TcpAddress:
    """Read ``HOST:PORT``; ``numbers_only`` refuses names and port 0, which Envoy could not use.

    An IP address comes back in its shortest form. Raises ``ValueError`` saying what it must be.
    """
    wanted = "`IP:PORT`" if numbers_only else "`HOST:PORT`"
    address = parse(text)
    if not isinstance(address, TcpAddress):
        raise ValueError(f"must be {wanted}, not {shown(text)}")  # noqa: TRY004 - an operator's fault
    if numbers_only and not address.port:
        raise ValueError(f"must have a port from 1 to {LAST_PORT}, not {shown(text)}")
    host = _LOOPBACK if address.host == "localhost" else address.host
    try:
        return TcpAddress(str(ipaddress.ip_address(host)), address.port)
    except ValueError:
        if numbers_only:
            raise ValueError(f"must be {wanted} with an IP address, not {shown(text)}") from None
        return address


def _is_wildcard(host: str) -> bool:
    return host in ("0.0.0.0", "::")  # noqa: S104 - compared with, not listened on


def _collisions(endpoints: Iterable[_Endpoint]) -> list[Fault]:
    faults: list[Fault] = []
    seen: list[_Endpoint] = []
    for endpoint in endpoints:
        other = next((earlier for earlier in seen if earlier.collides_with(endpoint)), None)
        if other is None:
            seen.append(endpoint)
        elif endpoint.owner != other.owner:
            words = f"port {endpoint.address.port} is also taken by `{other.owner}`"
            faults.append(Fault(endpoint.owner, words, (other.owner, "supervisor.routers")))
    return faults
