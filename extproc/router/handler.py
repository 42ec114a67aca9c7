"""One ``Process`` RPC: joins the transport's stream to an exchange and the exchange to a decision.

Everything that waits or is counted lives here: the watchdog over a decision, the release of what a request holds, the
outcome metrics. Faults of our own end here too and are answered as the operator chose (``routing.on_error``).
"""

import asyncio
import logging
from collections.abc import Callable
from time import perf_counter
from typing import Protocol

from google.protobuf.message import DecodeError

from extproc.api.request import RoutingRequest
from extproc.config.policies import RoutingSettings
from extproc.config.server import ServerSettings
from extproc.errors import DecisionTimeout, Draining, InternalFault, Overloaded, PolicyFailed, Refusal
from extproc.pb.ext_proc_pb2 import ProcessingRequest
from extproc.router.calibration import Calibration, Sample
from extproc.routing.decision import Decision
from extproc.server.base import Responder
from extproc.stream.exchange import Answer, Exchange, Phase
from extproc.telemetry.metrics import Metrics
from extproc.telemetry.tally import Tally
from extproc.tokens.prompt_tokens import PromptTokens

logger = logging.getLogger(__name__)

INVALID_ARGUMENT = 3

_PAUSE_SECS = 0.002
"""Soon after one chunk of a streamed answer no other is on its way."""
_SILENCE_SECS = 0.5
"""An answer without a chunk for this long pauses; below the second that a transport leaves for the end."""

_ANSWERED = (Phase.ROUTED, Phase.REFUSED)


class Decider(Protocol):
    """What turns requests into decisions, at once or later."""

    def needs_body(self, method: str, path: str) -> bool:
        """Whether a decision depends on the body."""

    def decide(self, request: RoutingRequest) -> "Decision | asyncio.Future[Decision]":
        """Route a request; raises :class:`~extproc.errors.Refusal`, at once or through the future."""


class ProcessService:
    """Makes the handlers of one router process and holds what they share.

    ``active`` streams are open now, of all that were ever ``opened``. ``queue_wait_secs`` returns how long a
    request may wait to be admitted at present, besides the time for its decision. Without a ``calibration`` no answer
    is read.
    """

    def __init__(
        self,
        *,
        decider: Decider,
        server: ServerSettings,
        routing: RoutingSettings,
        metrics: Metrics,
        queue_wait_secs: Callable[[], float] = lambda: 0.0,
        calibration: Calibration | None = None,
    ) -> None:
        self.decider = decider
        self.metrics = metrics
        self.max_body_bytes = server.max_body_bytes
        self.max_streams = server.max_streams
        self.max_held_bytes = server.max_held_bytes
        self.held_bytes = 0
        self.decision_timeout_secs = server.decision_timeout_secs
        self.queue_wait_secs = queue_wait_secs
        self.calibration = calibration
        self.fail_open = routing.on_error == "open"
        self.shows_decision = routing.decision_header
        self.streams_last = server.streams_last
        self._stopping = False
        self.active = 0
        self.opened = 0
        self.observe_decision = metrics.decision_seconds.observe
        self._count_routed = metrics.requests.labels("routed").inc
        self._clean_ends = Tally(metrics.streams.labels("clean"))
        self.count_clean_end = self._clean_ends.inc
        self.count_open = metrics.requests.labels("open").inc
        self.count_reset_end = metrics.streams.labels("reset").inc
        self.count_error_end = metrics.streams.labels("error").inc
        self._decisions: dict[tuple[str, int], Tally] = {}
        self._matches: dict[str, tuple[Tally, Tally]] = {}

    def open_stream(self, responder: Responder) -> "ProcessHandler":
        """Take a new RPC."""
        self.active += 1
        self.opened += 1
        return ProcessHandler(self, responder)

    def stream_closed(self) -> None:
        """An RPC is over."""
        self.active -= 1

    def stop_taking(self) -> None:
        """Refuse every request from now on."""
        self._stopping = True

    def admission_fault(self) -> Refusal | None:
        """Why no new request is taken now, or None."""
        if self._stopping:
            return Draining("The router is stopping.")
        if self.active > self.max_streams:
            return Overloaded("The router serves as many requests as it may.")
        return None

    def count_decision(self, decision: Decision) -> None:
        """Count a routed request under its worker, policy and reason."""
        # The reason's identity, as hashing a member of an enumeration runs Python code.
        key = (decision.worker.id, id(decision.reason))
        tally = self._decisions.get(key)
        if tally is None:
            # Bounded by workers that ever were times reasons; the metric itself holds the same set.
            metric = self.metrics.decisions.labels(decision.worker.id, decision.policy, decision.reason.value)
            tally = self._decisions[key] = Tally(metric)
        tally.inc()
        if decision.matched_tokens is not None and decision.flight is not None:
            self._count_match(decision.policy, decision.matched_tokens, decision.flight.uncached_tokens)

    def _count_match(self, policy: str, matched: int, unmatched: int) -> None:
        tallies = self._matches.get(policy)
        if tallies is None:
            metric = self.metrics.prompt_tokens_matched
            tallies = self._matches[policy] = (
                Tally(metric.labels(policy, "matched")),
                Tally(metric.labels(policy, "unmatched")),
            )
        tallies[0].add(matched)
        tallies[1].add(unmatched)

    def flush(self) -> None:
        """Write what was counted to the metrics; call regularly, and at the end."""
        self._clean_ends.flush()
        self.metrics.decision_seconds.flush()
        self.metrics.first_byte_seconds.flush()
        self.metrics.admission_wait_seconds.flush()
        for tallies in self._matches.values():
            for tally in tallies:
                tally.flush()
        self._count_routed(sum([tally.flush() for tally in self._decisions.values()]))


class ProcessHandler:
    """One RPC; see :class:`~extproc.server.base.StreamHandler` for who calls what."""

    __slots__ = (
        "_decided_at", "_decision", "_draining", "_exchange", "_fault", "_half_closed", "_held", "_malformed",
        "_pending", "_responder", "_sample", "_service", "_started", "_watchdog",
    )  # fmt: skip

    def __init__(self, service: ProcessService, responder: Responder) -> None:
        self._service = service
        self._responder = responder
        self._exchange = Exchange(needs_body=service.decider.needs_body, max_body_bytes=service.max_body_bytes)
        self._decision: Decision | None = None
        self._sample: Sample | None = None
        self._pending: asyncio.Future[Decision] | None = None
        self._watchdog: asyncio.TimerHandle | None = None
        self._half_closed = False
        self._draining = False
        self._malformed = False
        self._held = 0
        self._fault = service.admission_fault()

    def receive(self, message: bytes) -> None:
        """Take one serialised ``ProcessingRequest``; whatever can be answered is answered before this returns."""
        exchange = self._exchange
        if self._fault is not None:
            self._refuse(self._fault)
            self._fault = None
        try:
            replies = exchange.receive(ProcessingRequest.FromString(message))
            if replies:
                self._send(replies)
        except DecodeError:
            self._malformed = True
            self._responder.finish(INVALID_ARGUMENT, "not a ProcessingRequest")
        except Refusal as refusal:
            self._refuse(refusal)
        if exchange.wanted:
            self._decide()
        elif exchange.answer is not None:
            self._take_answer(exchange.answer)
        if exchange.held_bytes != self._held:
            self._hold(exchange.held_bytes)
        if self._draining:
            self._end_when_dispensable(_PAUSE_SECS)

    def _take_answer(self, answer: Answer) -> None:
        """Learn from the response headers, once."""
        self._exchange.answer = None
        if self._sample is not None:
            self._sample.answered(answer)
        if self._decision is not None:
            self._service.metrics.first_byte_seconds.observe(perf_counter() - self._decided_at)
            self._decision.answered(status=answer.status, served=answer.served, streamed=answer.streamed)

    def _hold(self, size: int) -> None:
        """Account for what this request holds of its body now, and refuse it when all together hold too much."""
        service = self._service
        service.held_bytes += size - self._held
        self._held = size
        if size and service.held_bytes > service.max_held_bytes:
            self._refuse(Overloaded("The router holds as many bytes of requests as it may."))
            self._hold(0)

    def half_close(self) -> None:
        """End the RPC from our side too, once nothing is owed."""
        self._half_closed = True
        if self._pending is None:
            self._responder.finish()

    def drain(self) -> None:
        """End the RPC cleanly as soon as the data plane can go on without us."""
        self._draining = True
        self._end_when_dispensable(_SILENCE_SECS)

    def _end_when_dispensable(self, quiet_secs: float) -> None:
        """End the RPC; while a response passes through, in a pause: what is on its way to us at the end is lost."""
        exchange = self._exchange
        if not exchange.dispensable:
            return
        if not exchange.response_passes:
            self._responder.finish()
            return
        if self._watchdog is not None:
            self._watchdog.cancel()
        self._watchdog = asyncio.get_running_loop().call_later(quiet_secs, self._responder.finish)

    def closed(self) -> None:
        """Release everything."""
        if self._pending is not None or self._watchdog is not None:
            self._settle()
        if self._held:
            self._hold(0)
        if self._decision is not None:
            self._decision.release(early=not (self._service.streams_last or self._exchange.ends_with_answer))
            self._decision = None
        service = self._service
        if self._sample is not None:
            tail = self._exchange.usage
            self._sample.end(None if tail is None else tail.read())
            self._sample = None
        if self._malformed:
            service.count_error_end()
        elif self._half_closed or self._exchange.phase in _ANSWERED:
            service.count_clean_end()
        else:
            service.count_reset_end()
        service.stream_closed()

    def _decide(self) -> None:
        service = self._service
        exchange = self._exchange
        exchange.wanted = False
        self._started = perf_counter()
        try:
            outcome = service.decider.decide(exchange.request)
        except Refusal as refusal:
            self._refuse(refusal)
        except PolicyFailed:
            self._give_up()
        except Exception:
            logger.exception("The decision failed")
            self._give_up()
        else:
            if not isinstance(outcome, Decision):
                self._wait_for(outcome)
                return
            self._route(outcome)
        service.observe_decision(perf_counter() - self._started)

    def _wait_for(self, pending: "asyncio.Future[Decision]") -> None:
        self._pending = pending
        loop = asyncio.get_running_loop()
        service = self._service
        patience_secs = service.decision_timeout_secs + service.queue_wait_secs()
        self._watchdog = loop.call_later(patience_secs, self._on_decision_timeout)
        pending.add_done_callback(self._on_decided)

    def _on_decided(self, done: "asyncio.Future[Decision]") -> None:
        if done is not self._pending:
            if not done.cancelled() and done.exception() is None:
                done.result().release()
            return
        self._settle()
        self._service.observe_decision(perf_counter() - self._started)
        try:
            self._route(done.result())
        except Refusal as refusal:
            self._refuse(refusal)
        except PolicyFailed:
            self._give_up()
        except (Exception, asyncio.CancelledError):
            logger.exception("The decision failed")
            self._give_up()
        self._hold(self._exchange.held_bytes)
        if self._half_closed:
            self._responder.finish()
        elif self._draining:
            self.drain()

    def _on_decision_timeout(self) -> None:
        self._settle()
        self._service.observe_decision(perf_counter() - self._started)
        self._refuse(DecisionTimeout(f"No decision within {self._service.decision_timeout_secs} seconds."))

    def _settle(self) -> None:
        """Forget a decision that is under way, if there is one; it is released should it still come."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.cancel()
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def _route(self, decision: Decision) -> None:
        service = self._service
        self._decision = decision
        self._decided_at = perf_counter()
        text = None
        if service.shows_decision:
            text = explain(decision, self._exchange.request.prompts)
        if service.calibration is not None:
            self._sample = service.calibration.draw(decision, self._exchange.request.prompts)
            self._exchange.usage_wanted = self._sample is not None
        self._send(self._exchange.routed(decision.endpoints, text, attempt_secs=decision.attempt_secs))
        service.count_decision(decision)

    def _refuse(self, refusal: Refusal) -> None:
        self._settle()
        self._send(self._exchange.refused(refusal))
        self._service.metrics.requests.labels(refusal.reason).inc()
        self._responder.finish()

    def _give_up(self) -> None:
        """Answer a fault of our own: leave the request to the data plane, or say so."""
        if not self._service.fail_open:
            self._refuse(InternalFault("The router failed to decide."))
            return
        self._send(self._exchange.left_open())
        self._service.count_open()

    def _send(self, replies: list[bytes]) -> None:
        send = self._responder.send
        for reply in replies:
            send(reply)


def explain(decision: Decision, prompts: tuple[PromptTokens, ...]) -> str:
    """Return a decision in words, for the response header: who, by which policy, why, and the numbers behind it."""
    words = [f"worker={decision.worker.id}", f"policy={decision.policy}", f"reason={decision.reason}"]
    if prompts:
        words += [f"tokens={sum([len(prompt.ids) for prompt in prompts])}", f"cache={prompts[0].cache}"]
    if decision.matched_tokens is not None:
        words.append(f"matched={decision.matched_tokens}")
    words += [f"{name}={value:.6g}" for name, value in decision.terms]
    return "; ".join(words)
