"""One request's way to a decision: parse as far as needed, filter, choose, account."""

import asyncio
from typing import Protocol

from extproc.api.body import RequestBody, decode
from extproc.api.paths import decoder_for
from extproc.api.request import RoutingRequest
from extproc.config.models import ModelSpec
from extproc.errors import BodyUnavailable, InvalidRequest, ModelNotFound, NoEndpoint
from extproc.fleet.worker import Worker
from extproc.policies.base import Needs, Policy
from extproc.routing.candidates import within_subset
from extproc.routing.decision import Decision, InFlightColumn
from extproc.telemetry.metrics import Metrics
from extproc.tokens.prompt_tokens import PromptTokens

Prompts = tuple[PromptTokens, ...]


class PromptSource(Protocol):
    """What turns bodies into token ids (:class:`extproc.models.reader.PromptReader`)."""

    def read(self, body: RequestBody, name: str) -> "Prompts | asyncio.Future[Prompts]":
        """Return the prompts of a body for the model called ``name``, at once or later."""


class FleetView(Protocol):
    """The fleet as a router reads it."""

    needs_model: bool
    """Whether some worker serves only certain models, so that a request's model decides where it may go."""

    models: tuple[ModelSpec, ...]
    """The configured models, whose prompts can be tokenized."""

    def refresh(self) -> None:
        """Take over what the observer has published since the last call."""

    def candidates(self, model: str | None) -> tuple[Worker, ...]:
        """Workers that may take a request for ``model`` now, sorted by id; ``None`` is a request without one."""

    def workers(self) -> tuple[Worker, ...]:
        """Every known worker, in whatever state."""

    def serves(self, model: str) -> bool:
        """Whether any known worker, in whatever state, serves ``model``."""


class Director:
    """Decides for one router process.

    Prompts to configured models are tokenized when the policy needs it, or for every request with
    ``always_tokenize``. ``single_endpoint`` is for data planes that take one endpoint only.
    """

    def __init__(
        self,
        *,
        fleet: FleetView,
        prompts: PromptSource,
        policy: Policy,
        in_flight: InFlightColumn,
        metrics: Metrics,
        always_tokenize: bool = False,
        single_endpoint: bool = False,
    ) -> None:
        self._fleet = fleet
        self._prompts = prompts
        self._policy = policy
        self._in_flight = in_flight
        self._metrics = metrics
        self._tokenizes = always_tokenize or policy.needs >= Needs.TOKENS
        self._single_endpoint = single_endpoint

    def needs_body(self, method: str, path: str) -> bool:
        """Whether a decision on such a request depends on its body."""
        self._fleet.refresh()
        if self._policy.needs < Needs.BODY and not self._fleet.needs_model and not self._wants_tokens():
            return False
        return decoder_for(method, path) is not None

    def decide(self, request: RoutingRequest) -> "Decision | asyncio.Future[Decision]":
        """Route a request and count it as in flight, now or, when its prompt takes long to tokenize, later.

        Raises :class:`~extproc.errors.Refusal`, at once or through the future, when it gets an answer instead: a body
        that cannot be read (400), an unknown model (404), nobody to send it to (503).
        """
        if request.body_needed:
            # The body may have taken its time; else the fleet was looked at just before, with the headers.
            self._fleet.refresh()
        model = self._model(request) if request.body_needed else None
        candidates = self._candidates(request, model)
        if request.body is not None and model is not None:
            if not self._wants_tokens():
                request.body.validate()
                return self._choose(request, candidates)
            prompts = self._prompts.read(request.body, model)
            if not isinstance(prompts, tuple):
                return self._later(request, model, prompts)
            request.prompts = prompts
        return self._choose(request, candidates)

    def _wants_tokens(self) -> bool:
        return self._tokenizes and bool(self._fleet.models)

    def _later(
        self, request: RoutingRequest, model: str, prompts: "asyncio.Future[Prompts]"
    ) -> "asyncio.Future[Decision]":
        """Decide once the prompts are there."""
        outcome: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()

        def settle(done: "asyncio.Future[Prompts]") -> None:
            if outcome.done():
                return
            try:
                request.prompts = done.result()
                # Workers may have come and gone meanwhile.
                self._fleet.refresh()
                outcome.set_result(self._choose(request, self._candidates(request, model)))
            except Exception as error:  # noqa: BLE001 - whoever awaits the future handles it
                outcome.set_exception(error)

        def forget(decided: "asyncio.Future[Decision]") -> None:
            # Also once they are there: asyncio logs an exception that nobody asked for, and it may quote the prompt.
            if decided.cancelled():
                prompts.cancel()

        prompts.add_done_callback(settle)
        outcome.add_done_callback(forget)
        return outcome

    def _candidates(self, request: RoutingRequest, model: str | None) -> tuple[Worker, ...]:
        candidates = self._fleet.candidates(model)
        if not candidates:
            if model is not None and self._fleet.workers() and not self._fleet.serves(model):
                raise ModelNotFound(f"The model `{model[:128]}` does not exist.", param="model")
            raise NoEndpoint("No healthy worker can take the request.")
        return candidates if request.subset is None else within_subset(candidates, request.subset)

    def _choose(self, request: RoutingRequest, candidates: tuple[Worker, ...]) -> Decision:
        choice = self._policy.choose(request, candidates)
        worker = choice.workers[0]
        if self._single_endpoint:
            endpoints = worker.address
        else:
            endpoints = ",".join([candidate.address for candidate in choice.workers])
        self._in_flight.add(worker.slot, 1)
        return Decision(endpoints, worker, self._policy.name, choice.reason, self._in_flight)

    def _model(self, request: RoutingRequest) -> str | None:
        if request.body_withheld:
            self._go_without_body("body_withheld")
            return None
        decoder = decoder_for(request.method, request.path)
        assert decoder is not None
        try:
            request.body = body = decode(decoder, request.payload or b"")
        except InvalidRequest:
            if not request.truncated:
                raise
            self._go_without_body("body_truncated")
            return None
        return body.model

    def _go_without_body(self, reason: str) -> None:
        """Go on by headers alone where that can only cost quality; refuse where it could pick a wrong worker."""
        if self._fleet.needs_model:
            raise BodyUnavailable(
                "The data plane does not send the whole request body, which is needed to find the model: "
                "set the filter's request_body_mode to BUFFERED or FULL_DUPLEX_STREAMED."
            )
        self._metrics.fallbacks.labels(reason).inc()
