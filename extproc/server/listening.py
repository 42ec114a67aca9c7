"""Listening sockets: how they are bound, taken over and given up."""

import contextlib
import os
import socket
from dataclasses import dataclass

from extproc.config.address import Address, TcpAddress, UnixAddress

BACKLOG = 1024


def listen_on(address: Address) -> "ListeningSocket":
    """Bind and listen, beside a process that listens there already if there is one.

    Raises ``OSError``.
    """
    if isinstance(address, UnixAddress):
        return _listen_on_path(address)
    return _listen_on_port(address)


@dataclass(frozen=True, slots=True)
class ListeningSocket:
    """A bound, listening, non-blocking socket. ``file`` is the socket's file if it has one of its own."""

    socket: socket.socket
    address: Address
    file: "SocketFile | None" = None

    def close(self) -> None:
        """Stop listening and leave nothing behind."""
        if self.file is not None:
            self.file.remove()
        self.socket.close()


class SocketFile:
    """The file of a unix socket, put in place of a predecessor's without a moment in which there is none.

    The socket is bound at :attr:`bound_path` beside the path and then renamed over it. The predecessor goes on with the
    connections that it has.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._inode: tuple[int, int] | None = None
        self.bound_path = os.path.join(os.path.dirname(path), f".{os.getpid()}.sock")  # noqa: PTH118, PTH120 - a string
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.bound_path)  # noqa: PTH108

    def put_in_place(self) -> None:
        """Take the path over, once the socket is bound and listens. Raises ``OSError``."""
        status = os.stat(self.bound_path)  # noqa: PTH116
        os.rename(self.bound_path, self._path)  # noqa: PTH104
        self._inode = (status.st_dev, status.st_ino)

    def remove(self) -> None:
        """Remove the file, unless a successor has taken the path over."""
        with contextlib.suppress(FileNotFoundError):
            if self._inode is None:
                os.unlink(self.bound_path)  # noqa: PTH108
                return
            status = os.stat(self._path)  # noqa: PTH116
            if (status.st_dev, status.st_ino) == self._inode:
                os.unlink(self._path)  # noqa: PTH108


def _listen_on_path(address: UnixAddress) -> ListeningSocket:
    file = SocketFile(address.path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.settimeout(0)
        listening.bind(file.bound_path)
        listening.listen(BACKLOG)
        file.put_in_place()
    except BaseException:
        listening.close()
        file.remove()
        raise
    return ListeningSocket(socket=listening, address=address, file=file)


def _listen_on_port(address: TcpAddress) -> ListeningSocket:
    """Several processes may listen on one port, so that a successor is there before its predecessor goes."""
    family, kind, protocol, _, where = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.settimeout(0)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind(where)
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return ListeningSocket(socket=listening, address=TcpAddress(address.host, listening.getsockname()[1]))
