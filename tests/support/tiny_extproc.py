"""The smallest external processor that answers like ours, for tests of Envoy's configuration.

It decides what its ``decide`` attribute says or returns, for every request, and remembers what Envoy sent. With
``early`` it answers the headers with the decision and tells Envoy to skip the body. Modes in which the body streams are
served too: the decision follows the body's end, and a full-duplex body is sent back. ``set_headers`` go with the
decision.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import grpc
from google.protobuf import json_format

from extproc.pb import ext_proc_pb2 as pb
from extproc.pb import health_pb2

DESTINATION = "x-gateway-destination-endpoint"


@dataclass
class Exchange:
    """What Envoy sent on one stream: the kinds of its messages, and what the response-headers phase told.

    ``served`` is ``None`` as long as that phase has not come, empty when it came without the metadata. ``ended`` is set
    when the stream is over, however it ended.
    """

    kinds: list[str] = field(default_factory=list)
    config: pb.ProtocolConfiguration = field(default_factory=pb.ProtocolConfiguration)
    response: dict[str, str] = field(default_factory=dict)
    served: str | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def duplex(self) -> bool:
        """Whether we have to send the body back."""
        return bool(self.config.request_body_mode == pb.FULL_DUPLEX_STREAMED)

    @property
    def withholds(self) -> bool:
        """Whether the decision may wait for the body's end."""
        return self.duplex or bool(self.config.send_body_without_waiting_for_header_response)

    def note_response(self, request: pb.ProcessingRequest) -> None:
        """Take the response-headers phase."""
        self.response = _plain(request.response_headers)
        told = json_format.MessageToDict(request.metadata_context.filter_metadata["envoy.lb"])
        self.served = str(told.get(f"{DESTINATION}-served", ""))


class TinyExtProc:
    """One grpc.aio server on ``address`` (``unix:PATH`` or ``HOST:PORT``)."""

    def __init__(self, *, address: str, credentials: grpc.ServerCredentials | None = None) -> None:
        self.decide: str | Callable[[], str] = ""
        self.early = False
        self.set_headers: dict[str, str] = {}
        self.serving = True
        self.headers: list[dict[str, str]] = []
        self.bodies: list[int] = []
        self.exchanges: list[Exchange] = []
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((self._process_handler(), self._health_handler()))
        if credentials is None:
            self._server.add_insecure_port(address)
        else:
            self._server.add_secure_port(address, credentials)

    async def __aenter__(self) -> Self:
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def streams(self) -> int:
        """How many streams Envoy has opened."""
        return len(self.exchanges)

    @property
    def served(self) -> list[str]:
        """Who served, as the response phases told, in the order of the streams."""
        return [one.served for one in self.exchanges if one.served is not None]

    async def stop(self) -> None:
        """Close the port and end every stream, as a process that dies does."""
        await self._server.stop(None)

    def _process_handler(self) -> grpc.GenericRpcHandler:
        method = grpc.stream_stream_rpc_method_handler(
            self._process,
            request_deserializer=pb.ProcessingRequest.FromString,
            response_serializer=pb.ProcessingResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler("envoy.service.ext_proc.v3.ExternalProcessor", {"Process": method})

    def _health_handler(self) -> grpc.GenericRpcHandler:
        method = grpc.unary_unary_rpc_method_handler(
            self._check,
            request_deserializer=health_pb2.HealthCheckRequest.FromString,
            response_serializer=health_pb2.HealthCheckResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": method})

    async def _check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        status = health_pb2.HealthCheckResponse.SERVING if self.serving else health_pb2.HealthCheckResponse.NOT_SERVING
        return health_pb2.HealthCheckResponse(status=status)

    async def _process(
        self, requests: AsyncIterator[pb.ProcessingRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.ProcessingResponse]:
        exchange = Exchange()
        self.exchanges.append(exchange)
        body: list[bytes] = []
        try:
            async for request in requests:
                exchange.kinds.append(str(request.WhichOneof("request")))
                if request.HasField("protocol_config"):
                    exchange.config = request.protocol_config
                if request.HasField("request_headers"):
                    self.headers.append(_plain(request.request_headers))
                    ended = request.request_headers.end_of_stream
                elif request.HasField("request_body"):
                    self.bodies.append(len(request.request_body.body))
                    body.append(request.request_body.body)
                    ended = request.request_body.end_of_stream
                elif request.HasField("response_headers"):
                    exchange.note_response(request)
                    yield pb.ProcessingResponse(response_headers=pb.HeadersResponse())
                    continue
                else:
                    yield pb.ProcessingResponse(response_trailers=pb.TrailersResponse())
                    continue
                for reply in self._replies(exchange, body, ended=ended):
                    yield reply
        finally:
            exchange.ended.set()

    def _replies(self, exchange: Exchange, body: list[bytes], *, ended: bool) -> Iterator[pb.ProcessingResponse]:
        """Answer the latest message of the request."""
        if exchange.withholds:
            if ended:
                yield self._reply("request_headers", decided=True)
                if body and exchange.duplex:
                    yield _echo(b"".join(body))
                elif body:
                    yield from (self._reply("request_body", decided=False) for _ in body)
            return
        kind = exchange.kinds[-1]
        reply = self._reply(kind, decided=ended or self.early)
        if kind == "request_headers" and self.early and not ended:
            reply.mode_override.request_body_mode = pb.NONE
        yield reply

    def _reply(self, kind: str, *, decided: bool) -> pb.ProcessingResponse:
        """Build a reply to headers or body, with the decision if there is one."""
        reply = pb.ProcessingResponse()
        getattr(reply, kind).SetInParent()
        if not decided:
            return reply
        headers = dict(self.set_headers)
        if chosen := self.decide() if callable(self.decide) else self.decide:
            headers[DESTINATION] = chosen
            reply.dynamic_metadata.update({"envoy.lb": {DESTINATION: chosen}})
        for name, value in headers.items():
            option = getattr(reply, kind).response.header_mutation.set_headers.add()
            option.header.key = name
            option.header.raw_value = value.encode()
            option.append_action = pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
        return reply


def _plain(headers: pb.HttpHeaders) -> dict[str, str]:
    return {one.key: (one.raw_value or one.value.encode()).decode() for one in headers.headers.headers}


def _echo(body: bytes) -> pb.ProcessingResponse:
    reply = pb.ProcessingResponse()
    chunk = reply.request_body.response.body_mutation.streamed_response
    chunk.body = body
    chunk.end_of_stream = True
    return reply
