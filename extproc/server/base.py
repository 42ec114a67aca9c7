"""The seam between a transport and what it serves.

A transport accepts connections and RPCs and knows nothing of requests; a stream handler knows nothing of sockets. One
``Process`` RPC is one handler, called from the event loop's thread in this order::

    handler = open_stream(responder)
    handler.receive(message)      any number of times, one whole serialised ProcessingRequest each
    handler.half_close()          at most once: the data plane will send no more
    handler.closed()              exactly once, however the RPC ended; nothing follows it

Both sides may act after the other has gone: ``send`` and ``finish`` on a stream that the peer has closed do nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class Responder(Protocol):
    """What a handler uses to answer on its RPC."""

    def send(self, message: bytes) -> None:
        """Send one serialised ``ProcessingResponse``. Does nothing when the RPC is over."""

    def finish(self, status: int = 0, detail: str = "") -> None:
        """End the RPC with a gRPC status, after whatever was sent. Does nothing when the RPC is over."""


class StreamHandler(Protocol):
    """One ``Process`` RPC, seen from the transport."""

    def receive(self, message: bytes) -> None:
        """Take one serialised ``ProcessingRequest``."""

    def half_close(self) -> None:
        """The data plane has closed its sending side."""

    def drain(self) -> None:
        """The process is about to stop: end the RPC as soon as nothing is owed to the data plane."""

    def closed(self) -> None:
        """The RPC is over (clean end, reset, cancel or lost connection): release everything."""


OpenStream = Callable[[Responder], StreamHandler]


@dataclass(frozen=True, slots=True)
class Listener:
    """One endpoint to serve.

    ``address`` is ``unix:PATH`` or ``HOST:PORT``. ``shared`` marks the endpoint that all routers share, whose
    connections are rotated.
    """

    address: str
    shared: bool = False


class Server(Protocol):
    """A transport. Built with its settings, its listeners, ``open_stream``, the health board and the event sink."""

    async def start(self) -> None:
        """Listen on every endpoint. Raises ``OSError`` when one cannot be bound."""

    async def drain(self, timeout_secs: float) -> None:
        """Stop without losing a request.

        Health turns NOT_SERVING at once (the caller has set the board). Listening goes on and requests are served until
        no RPC is left or ``timeout_secs`` have passed; then the listeners close, connections are told GOAWAY, handlers
        are asked to ``drain``, and what is left a second later is closed.
        """

    @property
    def active_streams(self) -> int:
        """RPCs open now."""
