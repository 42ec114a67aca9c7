"""The seam between a transport and what it serves.

A transport accepts connections and RPCs and knows nothing of requests; a stream handler knows nothing of sockets. One
``Process`` RPC is one handler, called from the event loop's thread in this order::

    handler = open_stream(responder)
    handler.receive(message)      any number of times, one whole serialised ProcessingRequest each
    handler.half_close()          at most once: the data plane will send no more
    handler.closed()              exactly once, however the RPC ended; nothing follows it

The handler ends its RPC: after ``half_close`` it calls ``finish``, at once or when what it still owes is sent, and the
transport waits for that. A handler that raises is ended with the status INTERNAL.

Both sides may act after the other has gone: ``send`` and ``finish`` on a stream that the peer has closed do nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from extproc.config.address import Address


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
        """The data plane has closed its sending side: ``finish`` once nothing is owed."""

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


class CloseReason(StrEnum):
    """Why this side closed a connection; the closed set of the metric label.

    A connection is reported once, when this side decides: a retired one (``rotated``, ``drained``) may in the end be
    closed by the peer.
    """

    GARBAGE = "garbage"
    """What came first is not HTTP/2."""
    PROTOCOL_ERROR = "protocol_error"
    """A frame that HTTP/2 forbids: too long, out of order, undecodable."""
    RESOURCE_LIMIT = "resource_limit"
    """Headers too large, or one of libnghttp2's own flood limits."""
    PING_FLOOD = "ping_flood"
    """More PING and SETTINGS frames than ``server.max_pings``."""
    RESET_FLOOD = "reset_flood"
    """More streams cancelled before their first message than ``server.max_idle_resets``."""
    HANDSHAKE_TIMEOUT = "handshake_timeout"
    """TLS, the HTTP/2 preface or the first SETTINGS did not come in time."""
    TLS_FAILED = "tls_failed"
    """The TLS handshake went wrong."""
    KEEPALIVE_TIMEOUT = "keepalive_timeout"
    """A silent peer did not answer a PING."""
    NOT_READING = "not_reading"
    """The peer has not taken what was written to it for as long as a silent peer may be silent."""
    TOO_MANY_CONNECTIONS = "too_many_connections"
    """``server.max_connections`` are open."""
    ROTATED = "rotated"
    """A shared connection had its streams; nothing was lost."""
    DRAINED = "drained"
    """The process stops."""
    INTERNAL = "internal"
    """A fault of our own, logged."""


class LoadGate(Protocol):
    """How loaded this process is on the shared endpoint, and how that compares with its siblings."""

    def accept_delay_secs(self) -> float:
        """How long to leave a waiting connection to less loaded processes; 0 when there is none."""

    def connection_accepted(self) -> None:
        """Count a connection just taken from the shared endpoint."""

    def stream_opened(self) -> None:
        """Count a ``Process`` RPC opened on a shared connection."""

    def stream_closed(self) -> None:
        """Count its end."""


class Server(Protocol):
    """A transport. Built with its settings, its listeners, ``open_stream``, the health board and the event sinks."""

    async def start(self) -> None:
        """Listen on every endpoint.

        Raises ``OSError`` when one cannot be bound or the certificate cannot be used; nothing listens then.
        """

    async def drain(self, timeout_secs: float) -> None:
        """Stop without losing a request.

        Health turns NOT_SERVING at once (the caller has set the board). Listening goes on and requests are served until
        no RPC is left or ``timeout_secs`` have passed; then the listeners close, connections are told GOAWAY, handlers
        are asked to ``drain``, and what is left a second later is closed.
        """

    @property
    def active_streams(self) -> int:
        """``Process`` RPCs open now."""

    @property
    def addresses(self) -> Sequence[Address]:
        """Where it listens, in the order of its listeners, with the port the kernel chose instead of 0."""
