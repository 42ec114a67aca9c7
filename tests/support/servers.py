"""A transport with a scripted handler, and what it saw."""

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from extproc.config.server import ServerSettings
from extproc.server.base import Listener, LoadGate, Responder, Server
from extproc.server.grpc_health import HealthBoard
from extproc.server.transports import server_class


async def eventually(condition: Callable[[], bool], *, timeout_secs: float = 10.0) -> None:
    """Wait until a condition holds; fails the test when it does not in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_secs
    while not condition():
        assert loop.time() < deadline, "the condition did not come true"
        await asyncio.sleep(0.002)


class ScriptedHandler:
    """Echoes; some messages are orders instead.

    ``raise`` fails, ``finish STATUS DETAIL`` ends the RPC, ``later`` is echoed in a later turn of the loop, ``hush`` is
    not answered, ``linger`` keeps the RPC open at half close and drain.
    """

    def __init__(self, responder: Responder) -> None:
        self.responder = responder
        self.events: list[str] = []
        self.received: list[bytes] = []
        self.lingers = False

    def receive(self, message: bytes) -> None:
        self.events.append("receive")
        self.received.append(message)
        match message[:100].split(b" ", 2):
            case [b"raise"]:
                raise RuntimeError("as ordered")
            case [b"finish", status, detail]:
                self.responder.finish(int(status), detail.decode())
            case [b"later"]:
                asyncio.get_running_loop().call_soon(self.responder.send, message)
            case [b"hush"]:
                pass
            case [b"linger"]:
                self.lingers = True
                self.responder.send(message)
            case _:
                self.responder.send(message)

    def half_close(self) -> None:
        self.events.append("half_close")
        if not self.lingers:
            self.responder.finish()

    def drain(self) -> None:
        self.events.append("drain")
        if not self.lingers:
            self.responder.finish()

    def closed(self) -> None:
        self.events.append("closed")
        self.responder.send(b"to nobody")
        self.responder.finish(2, "to nobody")


@dataclass
class Running:
    """A started server and everything it told."""

    server: Server
    health: HealthBoard
    handlers: list[ScriptedHandler]
    closed: Counter[str] = field(default_factory=Counter)
    tls_reloads: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        return str(self.server.addresses[0])

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def all_closed_once(self) -> bool:
        """Whether every handler there ever was got its ``closed``, once and last."""
        return all(handler.events.count("closed") == 1 and handler.events[-1] == "closed" for handler in self.handlers)


@contextlib.asynccontextmanager
async def running(
    transport: str,
    *,
    settings: ServerSettings | None = None,
    listeners: Sequence[Listener] = (Listener("127.0.0.1:0"),),
    shared_socket: socket.socket | None = None,
    load: LoadGate | None = None,
) -> AsyncIterator[Running]:
    """Serve until the block ends, then check that nothing is left open."""
    health = HealthBoard()
    health.set_ready(True)
    handlers: list[ScriptedHandler] = []
    closed: Counter[str] = Counter()
    tls_reloads: list[str] = []

    def open_stream(responder: Responder) -> ScriptedHandler:
        handlers.append(ScriptedHandler(responder))
        return handlers[-1]

    server = server_class(transport)(
        settings=settings or ServerSettings(),
        listeners=listeners,
        open_stream=open_stream,
        health=health,
        on_connection_closed=lambda reason: closed.update([str(reason)]),
        shared_socket=shared_socket,
        load=load,
        on_tls_reload=tls_reloads.append,
    )
    await server.start()
    try:
        yield Running(server=server, health=health, handlers=handlers, closed=closed, tls_reloads=tls_reloads)
    finally:
        await server.drain(0)
    assert server.active_streams == 0
