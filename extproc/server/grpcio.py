"""The grpcio transport: grpc.aio, the reference implementation, at several times the CPU of the native one.

It behaves as the native transport does as far as grpc.aio lets it. What it cannot do:

* Listen on an inherited socket, or leave a waiting connection to a less loaded process: every process binds the shared
  endpoint by itself and the kernel spreads connections over them (SO_REUSEPORT), whatever their load.
* Retire a shared connection after a number of streams: it is retired by age (``SHARED_CONNECTION_AGE_SECS``), and since
  that is an option of the whole server, so are the connections of the other listeners then.
* Say that a connection was closed, or why: ``on_connection_closed`` is never called. The limits on connections,
  handshakes and silent peers hold, by options of the library. Floods of pings are judged by the time between two of
  them; floods of resets by the library's own rules. A surplus connection is closed by the library.
* Tell a cancelled RPC from a half closed one at once: half closes are passed on some milliseconds late.
* Bound what a handler sends to a peer that does not read by bytes: it stops reading from it instead.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

import grpc

from extproc.config.address import Address, TcpAddress, UnixAddress, parse
from extproc.config.server import ServerSettings
from extproc.server.base import Listener, LoadGate, OpenStream
from extproc.server.flood import WINDOW_SECS
from extproc.server.grpc_health import HealthBoard
from extproc.server.grpcio_stream import GrpcioStream
from extproc.server.listening import BACKLOG, SocketFile
from extproc.server.methods import PROCESS, methods
from extproc.server.tls import CertificatePair, CertificateSource
from extproc.telemetry.tasks import spawn

LAST_WORD_SECS = 1.0
SHARED_CONNECTION_AGE_SECS = 10


class GrpcioServer:
    """A gRPC server on grpc.aio; see :class:`~extproc.server.base.Server`, and ``NativeServer`` for the parameters.

    Raises ``ValueError`` when given a ``shared_socket``.
    """

    def __init__(
        self,
        *,
        settings: ServerSettings,
        listeners: Sequence[Listener],
        open_stream: OpenStream,
        health: HealthBoard,
        on_connection_closed: Callable[[str], None],  # noqa: ARG002 - the transports are made alike
        shared_socket: socket.socket | None = None,
        load: LoadGate | None = None,  # noqa: ARG002 - the transports are made alike
        on_tls_reload: Callable[[Literal["ok", "failed"]], None] = lambda _result: None,
    ) -> None:
        if shared_socket is not None:
            raise ValueError("the grpcio transport cannot listen on an inherited socket")
        self._settings = settings
        self._listeners = tuple(listeners)
        self._on_tls_reload = on_tls_reload
        self._methods = methods(open_stream=open_stream, health=health)
        self._streams: set[GrpcioStream] = set()
        self._active_streams = 0
        self._changed = asyncio.Event()
        self._addresses: list[Address] = []
        self._files: list[SocketFile] = []
        self._server: Any = None
        self._certificate_task: asyncio.Task[None] | None = None

    @property
    def active_streams(self) -> int:
        """``Process`` RPCs open now."""
        return self._active_streams

    @property
    def addresses(self) -> Sequence[Address]:
        """Where it listens, in the order of its listeners."""
        return tuple(self._addresses)

    async def start(self) -> None:
        """Listen on every endpoint; see :class:`~extproc.server.base.Server`."""
        addresses = [parse(listener.address) for listener in self._listeners]
        credentials = None
        if self._settings.tls != "off" and any(isinstance(address, TcpAddress) for address in addresses):
            credentials = await self._start_tls()
        server = self._server = grpc.aio.server(options=self._options())
        server.add_generic_rpc_handlers(self._generic_handlers())
        try:
            for address in addresses:
                self._addresses.append(self._bind(address, credentials))
            await server.start()
        except BaseException:
            await self.drain(0)
            raise

    async def drain(self, timeout_secs: float) -> None:
        """Stop without losing a request; see :class:`~extproc.server.base.Server`."""
        if self._server is None:
            return
        await self._wait_until(lambda: not self._active_streams, timeout_secs=timeout_secs)
        for file in self._files:
            file.remove()
        self._files.clear()
        stopping = spawn(self._server.stop(LAST_WORD_SECS), name="grpcio stop")
        for stream in tuple(self._streams):
            stream.drain()
        await stopping
        await self._wait_until(lambda: not self._streams, timeout_secs=LAST_WORD_SECS)
        if self._certificate_task is not None:
            self._certificate_task.cancel()

    def _bind(self, address: Address, credentials: Any) -> Address:  # noqa: ANN401 - grpcio ships no types
        try:
            if isinstance(address, UnixAddress):
                file = SocketFile(address.path)
                self._files.append(file)
                self._server.add_insecure_port(str(UnixAddress(file.bound_path)))
                file.put_in_place()
                return address
            if credentials is None:
                port = self._server.add_insecure_port(str(address))
            else:
                port = self._server.add_secure_port(str(address), credentials)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}") from error
        return TcpAddress(address.host, port)

    def _options(self) -> list[tuple[str, int]]:
        settings = self._settings
        options = {
            "grpc.max_receive_message_length": settings.max_message_bytes,
            "grpc.max_send_message_length": -1,
            "grpc.max_concurrent_streams": settings.max_streams_per_connection,
            "grpc.max_allowed_incoming_connections": settings.max_connections,
            "grpc.server_handshake_timeout_ms": int(settings.handshake_timeout_secs * 1000),
            "grpc.keepalive_time_ms": int(settings.keepalive_time_secs * 1000),
            "grpc.keepalive_timeout_ms": int(settings.keepalive_timeout_secs * 1000),
            "grpc.keepalive_permit_without_calls": 1,
            "grpc.http2.ping_timeout_ms": int(settings.keepalive_timeout_secs * 1000),
            "grpc.http2.max_pings_without_data": 0,
            "grpc.http2.min_ping_interval_without_data_ms": int(WINDOW_SECS * 1000 / settings.max_pings),
            "grpc.http2.max_ping_strikes": settings.max_pings,
            "grpc.so_reuseport": 1,
            "grpc.tcp_backlog": BACKLOG,
        }
        if settings.rotate_after_streams and any(listener.shared for listener in self._listeners):
            options["grpc.max_connection_age_ms"] = SHARED_CONNECTION_AGE_SECS * 1000
        return list(options.items())

    def _generic_handlers(self) -> tuple[Any, ...]:
        handlers = []
        for path, opener in self._methods.items():
            _, service, method = path.split("/")
            # Without (de)serialisers messages stay bytes.
            handler = grpc.stream_stream_rpc_method_handler(self._behaviour(opener, process=path == PROCESS))
            handlers.append(grpc.method_handlers_generic_handler(service, {method: handler}))
        return tuple(handlers)

    def _behaviour(self, opener: OpenStream, *, process: bool) -> Callable[[Any, Any], Awaitable[None]]:
        async def serve(_requests: object, context: Any) -> None:  # noqa: ANN401 - grpcio ships no types
            stream = GrpcioStream(context, process=process)
            self._streams.add(stream)
            self._active_streams += process
            try:
                await stream.run(opener)
            finally:
                self._streams.discard(stream)
                self._active_streams -= process
                self._changed.set()

        return serve

    async def _start_tls(self) -> Any:  # noqa: ANN401 - grpcio ships no types
        certificates = await asyncio.to_thread(CertificateSource, self._settings)
        credentials, use = _dynamic_credentials(certificates.pair)
        if self._settings.tls == "files":
            self._certificate_task = spawn(
                certificates.follow(on_change=use, on_reload=self._on_tls_reload),
                name="certificate reload",
                eternal=True,
            )
        return credentials

    async def _wait_until(self, condition: Callable[[], bool], *, timeout_secs: float) -> None:
        try:
            async with asyncio.timeout(timeout_secs):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return


def _dynamic_credentials(pair: CertificatePair) -> tuple[Any, Callable[[CertificatePair], None]]:
    """Return server credentials, and what changes their certificate for handshakes from then on."""
    latest = _configuration(pair)

    def use(changed: CertificatePair) -> None:
        nonlocal latest
        latest = _configuration(changed)

    # The library asks before each handshake, in a thread of its own; it takes one reference, so there is no lock.
    return grpc.dynamic_ssl_server_credentials(latest, lambda: latest), use


def _configuration(pair: CertificatePair) -> Any:  # noqa: ANN401 - grpcio ships no types
    return grpc.ssl_server_certificate_configuration([(pair.key, pair.chain)])
