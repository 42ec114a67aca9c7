"""One request's way to a decision: hooks, parse as far as needed, filter, admit, tokenize, choose, account."""

import asyncio
from typing import Protocol

from extproc.api.body import RequestBody, decode, is_given
from extproc.api.paths import decoder_for
from extproc.api.request import RoutingRequest
from extproc.api.vllm_xargs import refuse_report_mode
from extproc.config.models import ModelSpec
from extproc.errors import BodyUnavailable, InvalidRequest, ModelNotFound, NoEndpoint
from extproc.fleet.breaker import Breakers
from extproc.fleet.candidates import Candidates
from extproc.fleet.worker import Worker
from extproc.policies.base import Choice, Needs, Policy
from extproc.routing.accounting import Accounts, Flight
from extproc.routing.admission import Admission, Ticket
from extproc.routing.candidates import within_subset
from extproc.routing.decision import Decision
from extproc.routing.flow import Flow, run_flow
from extproc.routing.hooks import HookRunner
from extproc.routing.patience import Patience
from extproc.routing.selection import PolicySelector
from extproc.routing.text_prompt import text_prompt
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

    def candidates(self, model: str | None) -> Candidates:
        """Workers that may take a request for ``model`` now, sorted by id; ``None`` is a request without one."""

    def workers(self) -> tuple[Worker, ...]:
        """Every known worker, in whatever state."""

    def serves(self, model: str) -> bool:
        """Whether any known worker, in whatever state, serves ``model``."""

    def spec_of(self, model: str) -> ModelSpec | None:
        """The configured model that a request's ``model`` stands for."""


class RequestRecorder(Protocol):
    """What records requests while that is wanted (:class:`extproc.recording.recorder.Recorder`)."""

    def began(self) -> float:
        """Return the time of now for a request that arrives and is to be recorded; 0 for one that is not."""

    def chosen(self, request: RoutingRequest, choice: Choice, *, policy: str, flight: Flight, arrived: float) -> None:
        """Take a request's numbers at its choice; its end is seen when its flight is given back."""


class Director:
    """Decides for one router process.

    Prompts to configured models are tokenized when a policy needs it, or for every request with ``always_tokenize``.
    ``single_endpoint`` is for data planes that take one endpoint only. Without a ``recorder`` nothing can be recorded.
    ``guards_cache_events``: no request may change what engines report of their caches.
    """

    def __init__(
        self,
        *,
        fleet: FleetView,
        prompts: PromptSource,
        selector: PolicySelector,
        breakers: Breakers,
        accounts: Accounts,
        admission: Admission,
        hooks: HookRunner,
        patience: Patience,
        metrics: Metrics,
        always_tokenize: bool = False,
        single_endpoint: bool = False,
        recorder: RequestRecorder | None = None,
        guards_cache_events: bool = False,
    ) -> None:
        self._fleet = fleet
        self._prompts = prompts
        self._selector = selector
        self._breakers = breakers
        self._accounts = accounts
        self._admission = admission
        self._hooks = hooks
        self._patience = patience
        self._metrics = metrics
        self._always_tokenize = always_tokenize
        self._single_endpoint = single_endpoint
        self._recorder = recorder
        self._guards_cache_events = guards_cache_events
        self._known_models: tuple[ModelSpec, ...] | None = None
        self._reads_bodies = False
        self._records = False
        self._tokenizes = False

    def needs_body(self, method: str, path: str) -> bool:
        """Whether a decision on such a request depends on its body."""
        self._refresh()
        return (self._reads_bodies or self._fleet.needs_model) and decoder_for(method, path) is not None

    def decide(self, request: RoutingRequest) -> "Decision | asyncio.Future[Decision]":
        """Route a request and count it as in flight, now or, when it has to wait for something, later.

        Raises :class:`~extproc.errors.Refusal`, at once or through the future, when it gets an answer instead: a body
        that cannot be read (400), an unknown model (404), too much to do (429, 503), nobody to send it to (503).
        """
        return run_flow(self._decide(request))

    def _decide(self, request: RoutingRequest) -> Flow[Decision]:
        arrived = 0.0 if self._recorder is None else self._recorder.began()
        if request.body_needed:
            # The body may have taken its time; else the fleet was looked at just before, with the headers.
            self._refresh()
        if self._hooks:
            yield from self._hooks.run(request)
        model = self._model(request) if request.body_needed else None
        candidates = self._candidates(request, model)
        spec = None if model is None else self._fleet.spec_of(model)
        ticket = self._admission.admit(request, spec)
        try:
            if ticket is not None and ticket.granted is not None:
                yield ticket.granted
                self._refresh()
                candidates = self._candidates(request, model)
            policy = self._selector.select(request, spec)
            if request.body is not None and model is not None:
                waited = yield from self._read_prompts(request, request.body, model, policy)
                if waited:
                    # Workers may have come and gone meanwhile.
                    self._refresh()
                    candidates = self._candidates(request, model)
            return self._choose(request, candidates, policy, ticket, arrived)
        except BaseException:
            if ticket is not None:
                ticket.release()
            raise

    def _read_prompts(self, request: RoutingRequest, body: RequestBody, model: str, policy: Policy) -> Flow[bool]:
        """Find out the prompts of a body as far as somebody looks at them; whether that had to wait."""
        waited = False
        if self._tokenizes:
            prompts = self._prompts.read(body, model)
            if isinstance(prompts, asyncio.Future):
                prompts = yield prompts
                waited = True
            request.prompts = prompts
        else:
            body.validate()
        if not request.prompts and (policy.needs >= Needs.TOKENS or self._selector.shadow_needs_tokens):
            request.prompts = text_prompt(body, model)
        return waited

    def _refresh(self) -> None:
        fleet = self._fleet
        fleet.refresh()
        if fleet.models is not self._known_models:
            self._known_models = fleet.models
            needs = self._selector.needs(fleet.models)
            self._records = needs >= Needs.PREFIXES
            self._tokenizes = bool(fleet.models) and (self._always_tokenize or needs >= Needs.TOKENS)
            limited = any(spec.max_requests or spec.max_tokens for spec in fleet.models)
            self._reads_bodies = needs >= Needs.BODY or self._tokenizes or limited or self._hooks.read_bodies

    def _candidates(self, request: RoutingRequest, model: str | None) -> Candidates:
        candidates = self._fleet.candidates(model)
        if not len(candidates):
            if model is not None and self._fleet.workers() and not self._fleet.serves(model):
                raise ModelNotFound(f"The model `{model[:128]}` does not exist.", param="model")
            raise NoEndpoint("No healthy worker can take the request.")
        if request.subset is not None:
            candidates = within_subset(candidates, request.subset)
        return self._breakers.usable(candidates)

    def _choose(
        self, request: RoutingRequest, candidates: Candidates, policy: Policy, ticket: Ticket | None, arrived: float
    ) -> Decision:
        choice = policy.choose(request, candidates)
        self._selector.compare(request, candidates, choice)
        choice = self._without_trials(choice)
        worker = choice.workers[0]
        if self._single_endpoint:
            endpoints = worker.address
        else:
            endpoints = ",".join([candidate.address for candidate in choice.workers])
        flight = self._accounts.start(request, choice, record=self._records)
        if ticket is not None:
            flight.on_end = ticket.release
        if arrived and self._recorder is not None:
            self._recorder.chosen(request, choice, policy=policy.name, flight=flight, arrived=arrived)
        return Decision(
            endpoints,
            worker,
            policy.name,
            choice.reason,
            choice.terms,
            choice.matched_tokens,
            self._patience.attempt_secs(request, flight),
            self._accounts,
            flight,
        )

    def _without_trials(self, choice: Choice) -> Choice:
        """Leave out fall-backs that are on trial: a worker that may be broken helps no request that has just failed."""
        if not self._breakers.any_open:
            return choice
        first, *others = choice.workers
        workers = (first, *[worker for worker in others if not self._breakers.is_open(worker.slot)])
        return choice._replace(workers=workers)

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
        if self._guards_cache_events and is_given(body.vllm_xargs):
            refuse_report_mode(body.vllm_xargs)
        return body.model

    def _go_without_body(self, reason: str) -> None:
        """Go on by headers alone where that can only cost quality; refuse where it could pick a wrong worker."""
        if self._fleet.needs_model:
            raise BodyUnavailable(
                "The data plane does not send the whole request body, which is needed to find the model: "
                "set the filter's request_body_mode to BUFFERED or FULL_DUPLEX_STREAMED."
            )
        self._metrics.fallbacks.labels(reason).inc()
