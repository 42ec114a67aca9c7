"""A handler of one RPC, with a transport that keeps what it sends and decisions that the test makes."""

import asyncio
import random
from collections.abc import Callable

import msgspec

from extproc.api.request import RoutingRequest
from extproc.config.policies import RoutingSettings
from extproc.config.server import ServerSettings
from extproc.fleet.precision import Precisions
from extproc.pb.ext_proc_pb2 import ImmediateResponse, ProcessingRequest
from extproc.policies.base import Choice, Reason
from extproc.router.calibration import Calibration
from extproc.router.handler import ProcessHandler, ProcessService
from extproc.routing.decision import Decision
from extproc.telemetry.metrics import Metrics
from tests.support import messages as m
from tests.support.fleets import Shared, prompt, request_with, worker

Outcome = Decision | asyncio.Future[Decision] | BaseException


class Transport:
    """Keeps what a handler sends; like a transport, it drops what comes after the end."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.status: int | None = None
        self.finished = asyncio.Event()

    def send(self, message: bytes) -> None:
        if self.status is None:
            self.sent.append(message)

    def finish(self, status: int = 0, detail: str = "") -> None:
        if self.status is None:
            self.status = status
            self.finished.set()

    @property
    def answer(self) -> ImmediateResponse:
        (reply,) = [reply for reply in m.parse(self.sent) if reply.HasField("immediate_response")]
        return reply.immediate_response


class Bench:
    """A service whose decisions the test makes."""

    def __init__(
        self,
        *,
        on_error: str = "open",
        max_streams: int = 100,
        timeout_secs: float = 30,
        max_held_bytes: int = 1 << 20,
        streams_last: bool = True,
        sample_share: float | None = None,
    ) -> None:
        self.shared = Shared()
        metrics = Metrics()
        self.accounts = self.shared.accounts()
        self.outcome: Callable[[], Outcome] = self.decision
        self.body_needed = True
        self.service = ProcessService(
            decider=self,
            server=ServerSettings(
                max_streams=max_streams,
                decision_timeout_secs=timeout_secs,
                max_held_bytes=max_held_bytes,
                streams_last=streams_last,
            ),
            routing=RoutingSettings(on_error=on_error, decision_header=True),  # type: ignore[arg-type]
            metrics=metrics,
            calibration=None if sample_share is None else self.calibration(sample_share, metrics),
        )
        self.transport = Transport()
        self.handler: ProcessHandler = self.service.open_stream(self.transport)

    def calibration(self, share: float, metrics: Metrics) -> Calibration:
        precisions = Precisions(self.shared.table)
        return Calibration(share=share, rng=random.Random(7), precisions=precisions, metrics=metrics)

    def needs_body(self, method: str, path: str) -> bool:
        return self.body_needed

    def decide(self, request: RoutingRequest) -> Decision | asyncio.Future[Decision]:
        outcome = self.outcome()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def decision(self) -> Decision:
        choice = Choice((worker(1),), Reason.RANDOM)
        flight = self.accounts.start(request_with(), choice, record=False)
        return Decision("10.0.0.1:8000", worker(1), "random", Reason.RANDOM, accounts=self.accounts, flight=flight)

    def predict(self, tokens: int) -> None:
        """Let decisions say that the worker has so many tokens of a prompt of 160."""

        def outcome() -> Decision:
            self.handler._exchange.request.prompts = (prompt(160),)
            return msgspec.structs.replace(self.decision(), matched_tokens=tokens)

        self.outcome = outcome

    def samples(self, result: str) -> float:
        counter = self.service.metrics.cached_tokens_samples.labels("w1", "random", result)
        return float(counter._value.get())

    @property
    def in_flight(self) -> int:
        return sum(self.shared.table.in_flight())

    def receive(self, *messages: ProcessingRequest) -> None:
        for message in messages:
            self.handler.receive(message.SerializeToString())

    def count(self, outcome: str) -> float:
        self.service.flush()
        return float(self.service.metrics.requests.labels(outcome)._value.get())

    def ends(self) -> dict[str, float]:
        self.service.flush()
        streams = self.service.metrics.streams
        return {end: streams.labels(end)._value.get() for end in ("clean", "reset", "error")}


def served_by(address: str, *, status: str = "200", content_type: str = "application/json") -> ProcessingRequest:
    """Response headers, with the data plane's word on who has served."""
    message = m.response_headers()
    del message.response_headers.headers.headers[:]
    fields = {":status": status, "content-type": content_type}
    message.response_headers.headers.CopyFrom(m.header_map(fields))
    served = message.metadata_context.filter_metadata["envoy.lb"].fields["x-gateway-destination-endpoint-served"]
    served.string_value = address
    return message
