"""The listening socket that all routers share."""

import socket

from extproc.config import address
from extproc.errors import StartupError

_BACKLOG = 1024


def bind(text: str) -> socket.socket:
    """Bind and listen on ``HOST:PORT``; port 0 takes any free one.

    The supervisor does it once and the routers inherit the socket, so the port stays bound and connections queue while
    routers come and go. It never blocks: many routers are woken for a connection and all but one find nothing. Raises
    ``StartupError`` when the address cannot be used.
    """
    try:
        where = address.parse(text)
        if not isinstance(where, address.TcpAddress):
            raise StartupError(f"server.shared_address: {text} is not HOST:PORT")
        family, kind, protocol, _, target = socket.getaddrinfo(
            where.host, where.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, ValueError) as error:
        raise StartupError(f"server.shared_address: {text}: {error}") from error
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(target)
        listening.listen(_BACKLOG)
        listening.settimeout(0)
    except OSError as error:
        listening.close()
        raise StartupError(f"server.shared_address: cannot listen on {text}: {error}") from error
    return listening
