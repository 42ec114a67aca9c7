"""A client of the service, as plain as the wire: raw messages in and out, statuses as numbers."""

from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from extproc.pb.health_pb2 import HealthCheckRequest, HealthCheckResponse
from extproc.server.methods import CHECK, PROCESS, WATCH


class ProcessStream:
    """One ``Process`` RPC."""

    def __init__(self, call: Any) -> None:  # noqa: ANN401 - grpcio ships no types
        self._call = call

    async def send(self, message: bytes) -> None:
        await self._call.write(message)

    async def receive(self) -> bytes | None:
        """Return the next message, or None when the server has ended the RPC with status 0.

        Raises ``grpc.aio.AioRpcError`` when it ended it with another one.
        """
        message = await self._call.read()
        return None if message is grpc.aio.EOF else message

    async def ask(self, message: bytes) -> bytes | None:
        await self.send(message)
        return await self.receive()

    async def half_close(self) -> None:
        await self._call.done_writing()

    def cancel(self) -> None:
        self._call.cancel()

    async def status(self) -> tuple[int, str]:
        """Wait for the end; returns the gRPC status and its detail."""
        code = await self._call.code()
        return code.value[0], await self._call.details() or ""


class GrpcClient:
    """A channel to one address: ``unix:PATH`` or ``HOST:PORT``.

    ``root_certificates`` (PEM) turns TLS on; the name of the certificate is then expected to be ``localhost``. Every
    client has a connection of its own.
    """

    def __init__(self, address: str, *, root_certificates: bytes | None = None) -> None:
        options = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.min_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 200),
            ("grpc.enable_http_proxy", 0),
        ]
        if root_certificates is None:
            self.channel = grpc.aio.insecure_channel(address, options=options)
        else:
            options_tls = [*options, ("grpc.ssl_target_name_override", "localhost")]
            credentials = grpc.ssl_channel_credentials(root_certificates)
            self.channel = grpc.aio.secure_channel(address, credentials, options=options_tls)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self.channel.close()

    def process(self) -> ProcessStream:
        return ProcessStream(self.channel.stream_stream(PROCESS)(wait_for_ready=True))

    async def echo(self, message: bytes) -> bytes | None:
        """Send one message, half close, and return the reply; raises ``AioRpcError`` unless the status is 0."""
        stream = self.process()
        await stream.send(message)
        reply = await stream.receive()
        await stream.half_close()
        assert await stream.receive() is None
        return reply

    async def call(self, path: str, message: bytes = b"") -> bytes:
        """Call a unary method; raises ``AioRpcError``."""
        reply: bytes = await self.channel.unary_unary(path)(message, wait_for_ready=True)
        return reply

    async def check(self, service: str) -> int:
        """Return the health status; raises ``AioRpcError`` for an unknown service."""
        reply = await self.call(CHECK, HealthCheckRequest(service=service).SerializeToString())
        return HealthCheckResponse.FromString(reply).status

    async def watch(self, service: str) -> AsyncGenerator[int, None]:
        """Yield the health status and every change of it; leaving the loop cancels the RPC."""
        question = HealthCheckRequest(service=service).SerializeToString()
        call = self.channel.unary_stream(WATCH)(question, wait_for_ready=True)
        try:
            async for reply in call:
                yield HealthCheckResponse.FromString(reply).status
        finally:
            call.cancel()


def status_of(error: grpc.aio.AioRpcError) -> int:
    """Return the number of an error's status."""
    code: int = error.code().value[0]
    return code
