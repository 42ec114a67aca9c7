"""Where something listens: the notation of the settings, and what it means.

``unix:PATH``, ``HOST:PORT`` or ``[IPv6]:PORT``. A host may be a name; whoever needs a number asks for one.
"""

import ipaddress
from dataclasses import dataclass

_UNIX = "unix:"
_MAX_PORT = 65535
_MAX_UNIX_PATH_BYTES = 107
"""The kernel's limit for the path of a socket, on Linux."""


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A socket file."""

    path: str

    def __str__(self) -> str:
        return f"{_UNIX}{self.path}"


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host, without brackets, and a port; port 0 stands for any free one."""

    host: str
    port: int

    @property
    def is_numeric(self) -> bool:
        """Whether the host is an IP address, not a name."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


Address = UnixAddress | TcpAddress


def parse(text: str) -> Address:
    """Read an address; ``str`` of the result is the text again.

    Raises ``ValueError`` with a message for the operator.
    """
    if text.startswith(_UNIX):
        return _parse_unix(text)
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > _MAX_PORT:
        raise ValueError(f"{text!r} is neither unix:PATH nor HOST:PORT with a port from 0 to {_MAX_PORT}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r}: an IPv6 address stands in brackets, [ADDRESS]:PORT")
    if not host or any(character in "[]/@ " for character in host):
        raise ValueError(f"{text!r} has no host before the port")
    return TcpAddress(host=host, port=int(port))


def _parse_unix(text: str) -> UnixAddress:
    path = text.removeprefix(_UNIX)
    if not path or "\0" in path:
        raise ValueError(f"{text!r} has no path after {_UNIX}")
    if len(path.encode()) > _MAX_UNIX_PATH_BYTES:
        raise ValueError(f"{text!r}: the path of a socket has at most {_MAX_UNIX_PATH_BYTES} bytes")
    return UnixAddress(path=path)
