"""The smallest external processor that answers like ours, for tests of Envoy's configuration.

It decides what its ``decide`` attribute says, for every request, and remembers what Envoy sent. With ``early`` it
answers the headers with the decision and tells Envoy to skip the body.
"""

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

import grpc
from google.protobuf import json_format

from extproc.pb import ext_proc_pb2 as pb
from extproc.pb import health_pb2

DESTINATION = "x-gateway-destination-endpoint"


class TinyExtProc:
    """One grpc.aio server on ``address`` (``unix:PATH`` or ``HOST:PORT``)."""

    def __init__(self, *, address: str, credentials: grpc.ServerCredentials | None = None) -> None:
        self.decide = ""
        self.early = False
        self.serving = True
        self.streams = 0
        self.headers: list[dict[str, str]] = []
        self.bodies: list[int] = []
        self.served: list[str] = []
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
        self.streams += 1
        async for request in requests:
            kind = request.WhichOneof("request")
            if kind == "request_headers":
                self.headers.append(
                    {h.key: (h.raw_value or h.value.encode()).decode() for h in request.request_headers.headers.headers}
                )
                decided = self.early or request.request_headers.end_of_stream
                reply = pb.ProcessingResponse(
                    request_headers=pb.HeadersResponse(response=self._answer(decided=decided))
                )
                if self.early and not request.request_headers.end_of_stream:
                    reply.mode_override.request_body_mode = pb.NONE
            elif kind == "request_body":
                self.bodies.append(len(request.request_body.body))
                decided = True
                reply = pb.ProcessingResponse(request_body=pb.BodyResponse(response=self._answer(decided=True)))
            else:
                decided = False
                served = json_format.MessageToDict(request.metadata_context.filter_metadata["envoy.lb"])
                self.served.append(served.get(f"{DESTINATION}-served", ""))
                reply = pb.ProcessingResponse(response_headers=pb.HeadersResponse())
            if decided and self.decide:
                reply.dynamic_metadata.update({"envoy.lb": {DESTINATION: self.decide}})
            yield reply

    def _answer(self, *, decided: bool) -> pb.CommonResponse:
        if not (decided and self.decide):
            return pb.CommonResponse()
        option = pb.HeaderValueOption(
            header=pb.HeaderValue(key=DESTINATION, raw_value=self.decide.encode()),
            append_action=pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
        )
        return pb.CommonResponse(header_mutation=pb.HeaderMutation(set_headers=[option]))
