"""The transports by their configured names."""

import importlib
import socket
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, cast

from extproc.config.server import ServerSettings
from extproc.server.base import Listener, LoadGate, OpenStream, Server
from extproc.server.grpc_health import HealthBoard

SERVERS: dict[str, tuple[str, str]] = {
    "native": ("extproc.server.native", "NativeServer"),
    "grpcio": ("extproc.server.grpcio", "GrpcioServer"),
}
"""Module and class; imported when chosen, since each brings a large library of its own."""


class MakeServer(Protocol):
    """How a server is made; the parameters are described at ``NativeServer``."""

    def __call__(
        self,
        *,
        settings: ServerSettings,
        listeners: Sequence[Listener],
        open_stream: OpenStream,
        health: HealthBoard,
        on_connection_closed: Callable[[str], None],
        shared_socket: socket.socket | None = None,
        load: LoadGate | None = None,
        on_tls_reload: Callable[[Literal["ok", "failed"]], None] = ...,
    ) -> Server:
        """Return a server that does not listen yet."""


def server_class(transport: str) -> MakeServer:
    """Import and return the class that serves ``settings.transport``; raises ``KeyError`` for an unknown name."""
    module, name = SERVERS[transport]
    return cast(MakeServer, getattr(importlib.import_module(module), name))
