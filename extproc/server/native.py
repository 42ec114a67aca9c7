"""The native transport: asyncio and ngh2, several times cheaper than grpc.aio (`make bench`)."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from extproc.config.address import Address, TcpAddress, parse
from extproc.config.server import ServerSettings
from extproc.server.acceptor import Acceptor
from extproc.server.base import CloseReason, Listener, LoadGate, OpenStream
from extproc.server.grpc_health import HealthBoard
from extproc.server.listening import ListeningSocket, listen_on
from extproc.server.methods import methods
from extproc.server.native_connection import NativeConnection
from extproc.server.native_traffic import NativeTraffic
from extproc.server.tls import CertificatePair, CertificateSource, server_context
from extproc.telemetry.tasks import spawn

LAST_WORD_SECS = 1.0
"""How long connections may take to end after the GOAWAY of a drain."""


class NativeServer:
    """A gRPC server on asyncio; see :class:`~extproc.server.base.Server`.

    ``on_connection_closed`` is called once with a :class:`~extproc.server.base.CloseReason` for every connection that
    this side closes. ``shared_socket`` is an inherited listening socket for the shared listener, watched by several
    processes; ``load`` then decides who accepts. Without it the shared listener is bound here. ``on_tls_reload`` is
    told of every reading of changed certificate files.
    """

    def __init__(
        self,
        *,
        settings: ServerSettings,
        listeners: Sequence[Listener],
        open_stream: OpenStream,
        health: HealthBoard,
        on_connection_closed: Callable[[str], None],
        shared_socket: socket.socket | None = None,
        load: LoadGate | None = None,
        on_tls_reload: Callable[[Literal["ok", "failed"]], None] = lambda _result: None,
    ) -> None:
        self._settings = settings
        self._listeners = tuple(listeners)
        self._shared_socket = shared_socket
        self._load = load
        self._on_tls_reload = on_tls_reload
        self._traffic = NativeTraffic(
            settings=settings,
            methods=methods(open_stream=open_stream, health=health),
            on_connection_closed=on_connection_closed,
            load=load,
        )
        self._listening: list[ListeningSocket] = []
        self._acceptors: list[Acceptor] = []
        self._handshakes: set[asyncio.Task[None]] = set()
        self._context: ssl.SSLContext | None = None
        self._certificate_task: asyncio.Task[None] | None = None

    @property
    def active_streams(self) -> int:
        """``Process`` RPCs open now."""
        return self._traffic.active_streams

    @property
    def addresses(self) -> Sequence[Address]:
        """Where it listens, in the order of its listeners."""
        return tuple(listening.address for listening in self._listening)

    async def start(self) -> None:
        """Listen on every endpoint; see :class:`~extproc.server.base.Server`."""
        try:
            for listener in self._listeners:
                self._listening.append(self._bind(listener))
            if self._settings.tls != "off" and any(isinstance(each, TcpAddress) for each in self.addresses):
                await self._start_tls()
        except BaseException:
            self._close_listening()
            raise
        for listener, listening in zip(self._listeners, self._listening, strict=True):
            tls = isinstance(listening.address, TcpAddress)
            self._acceptors.append(
                Acceptor(
                    listening=listening.socket,
                    take=partial(self._take, shared=listener.shared, tls=tls),
                    exclusive=listening.socket is not self._shared_socket,
                    delay_secs=self._load.accept_delay_secs if listener.shared and self._load is not None else None,
                )
            )

    async def drain(self, timeout_secs: float) -> None:
        """Stop without losing a request; see :class:`~extproc.server.base.Server`."""
        traffic = self._traffic
        await traffic.wait_until(lambda: not traffic.active_streams, timeout_secs=timeout_secs)
        traffic.stopping = True
        self._stop_listening()
        for connection in tuple(traffic.connections):
            connection.retire(CloseReason.DRAINED)
            connection.drain()
        await traffic.wait_until(lambda: traffic.empty, timeout_secs=LAST_WORD_SECS)
        tasks = list(self._handshakes)
        if self._certificate_task is not None:
            tasks.append(self._certificate_task)
        for task in tasks:
            task.cancel()
        for connection in tuple(traffic.connections):
            connection.abort(CloseReason.DRAINED)
        await asyncio.gather(*tasks, return_exceptions=True)
        await traffic.wait_until(lambda: traffic.empty, timeout_secs=LAST_WORD_SECS)

    def _bind(self, listener: Listener) -> ListeningSocket:
        address = parse(listener.address)
        if listener.shared and self._shared_socket is not None:
            self._shared_socket.settimeout(0)
            return ListeningSocket(socket=self._shared_socket, address=address)
        return listen_on(address)

    async def _start_tls(self) -> None:
        certificates = await asyncio.to_thread(CertificateSource, self._settings)
        self._use_certificate(certificates.pair)
        if self._settings.tls == "files":
            self._certificate_task = spawn(
                certificates.follow(on_change=self._use_certificate, on_reload=self._on_tls_reload),
                name="certificate reload",
                eternal=True,
            )

    def _use_certificate(self, pair: CertificatePair) -> None:
        """Use a pair for handshakes from here on.

        In a context of its own: one context keeps a certificate for each kind of key, so an old RSA certificate would
        still be served beside a new EC one.
        """
        self._context = server_context(pair)

    def _take(self, accepted: socket.socket, *, shared: bool, tls: bool) -> None:
        """Start to serve an accepted connection."""
        traffic = self._traffic
        if traffic.full:
            accepted.close()
            traffic.report_closed(CloseReason.TOO_MANY_CONNECTIONS)
            return
        if shared and self._load is not None:
            self._load.connection_accepted()
        deadline = asyncio.get_running_loop().time() + self._settings.handshake_timeout_secs
        connection = NativeConnection(traffic, shared=shared, deadline=deadline)
        traffic.pending.add(connection)
        task = spawn(self._shake_hands(accepted, connection, tls=tls), name="connection handshake")
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, accepted: socket.socket, connection: NativeConnection, *, tls: bool) -> None:
        context = self._context if tls else None
        times = {}
        if context is not None:
            times = {"ssl_handshake_timeout": self._settings.handshake_timeout_secs, "ssl_shutdown_timeout": 1.0}
        traffic = self._traffic
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, accepted, ssl=context, **times)
        except ConnectionAbortedError:
            traffic.report_closed(CloseReason.HANDSHAKE_TIMEOUT)
        except ssl.SSLError:
            traffic.report_closed(CloseReason.TLS_FAILED)
        except OSError:
            pass  # the peer has gone
        finally:
            if connection in traffic.pending:
                traffic.connection_lost(connection)

    def _stop_listening(self) -> None:
        for acceptor in self._acceptors:
            acceptor.stop()
        self._acceptors.clear()
        self._close_listening()

    def _close_listening(self) -> None:
        for listening in self._listening:
            listening.close()
        self._listening.clear()
