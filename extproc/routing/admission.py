"""Lets in as many requests as the limits allow; the others wait for a while, the more important ones in front.

What is in flight is counted over all routers (``shm/admission.py``); each router has a queue of its own. A router that
gives a place back looks at its queue at once, and every ``LOOK_SECS`` for places that other routers gave back. Whoever
cannot wait is refused before anything of its prompt is read, so refusing stays cheap when there is most of it.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec

from extproc.api.request import RoutingRequest
from extproc.config.admission import AdmissionSettings
from extproc.config.models import ModelSpec
from extproc.errors import InvalidRequest, Overloaded, QueueTimeout
from extproc.policies.base import header_of, prompt_tokens_of

LOOK_SECS = 0.01
PRIORITY_HEADERS = ("x-extproc-priority", "x-smg-priority")
PRIORITIES = ("high", "normal", "low")
UNKNOWN_MODEL = 0


class Columns(Protocol):
    """What is admitted over all routers (:class:`extproc.shm.admission.AdmissionColumns`)."""

    def add(self, model: int, *, requests: int, tokens: int) -> None:
        """Count what this router admits up or down."""

    def of_model(self, model: int) -> tuple[int, int]:
        """Requests and tokens of one model."""

    def total(self) -> tuple[int, int]:
        """Requests and tokens of all."""


class Ticket:
    """A place that one request holds."""

    __slots__ = ("_admission", "_model", "_tokens")

    def __init__(self, admission: "Admission", model: int, tokens: int) -> None:
        self._admission: Admission | None = admission
        self._model = model
        self._tokens = tokens

    def release(self) -> None:
        """Give the place back; further calls do nothing."""
        if self._admission is not None:
            self._admission.give_back(self._model, self._tokens)
            self._admission = None


class _Waiting(msgspec.Struct, eq=False):
    """A request in the queue."""

    rank: int
    model: int
    spec: ModelSpec | None
    tokens: int
    deadline: float
    started: float
    ticket: "asyncio.Future[Ticket]"


class Admission:
    """The gate of one router.

    ``models`` returns the configured models as they are now. ``on_waited`` is told how long each request had to wait.
    """

    def __init__(
        self,
        *,
        settings: AdmissionSettings,
        columns: Columns,
        models: Callable[[], tuple[ModelSpec, ...]],
        on_waited: Callable[[float], None],
        assumed_answer_tokens: int,
    ) -> None:
        self._settings = settings
        self._columns = columns
        self._models = models
        self._on_waited = on_waited
        self._assumed_answer_tokens = assumed_answer_tokens
        self._default_rank = PRIORITIES.index(settings.default_priority)
        self._known: tuple[ModelSpec, ...] | None = None
        self._places: dict[str, int] = {}
        self._limited = False
        self._queue: list[_Waiting] = []
        self._look: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._queue)

    def admit(self, request: RoutingRequest, spec: ModelSpec | None) -> "Ticket | asyncio.Future[Ticket] | None":
        """Give a request a place, now or later; None where nothing is limited.

        Raises :class:`~extproc.errors.Overloaded` (429) when it cannot wait, and through the future
        :class:`~extproc.errors.QueueTimeout` (503) when it has waited too long. ``spec`` is the request's model, None
        when it is not configured. Cancelling the future leaves the queue.
        """
        if self._models() is not self._known:
            self._read_models()
        if not self._limited:
            return None
        model = UNKNOWN_MODEL if spec is None else self._places.get(spec.name, UNKNOWN_MODEL)
        rank = self._rank(request)
        tokens = prompt_tokens_of(request) + (
            self._assumed_answer_tokens
            if request.body is None
            else request.body.answer_tokens(self._assumed_answer_tokens)
        )
        overtakes = not any(waiting.rank <= rank for waiting in self._queue)
        if overtakes and self._fits(model, spec, tokens):
            return self._take(model, tokens)
        if self._can_never_fit(spec, tokens):
            raise Overloaded("The request alone has more tokens than may be in flight.")
        return self._wait(rank, model, spec, tokens)

    def give_back(self, model: int, tokens: int) -> None:
        """Give a place back; for :class:`Ticket`."""
        self._columns.add(model, requests=-1, tokens=-tokens)
        if self._queue:
            self._serve()

    def _read_models(self) -> None:
        self._known = models = self._models()
        self._places = {spec.name: place for place, spec in enumerate(models, start=1)}
        settings = self._settings
        own = any(spec.max_requests or spec.max_tokens for spec in models)
        self._limited = bool(settings.max_requests or settings.max_tokens or own)

    def _rank(self, request: RoutingRequest) -> int:
        name = header_of(request, PRIORITY_HEADERS)
        if not name:
            return self._default_rank
        if name not in PRIORITIES:
            raise InvalidRequest(f"The priority must be one of {', '.join(PRIORITIES)}.", param=PRIORITY_HEADERS[0])
        return PRIORITIES.index(name)

    def _fits(self, model: int, spec: ModelSpec | None, tokens: int) -> bool:
        settings = self._settings
        if (settings.max_requests or settings.max_tokens) and not _has_room(
            self._columns.total(), settings.max_requests, settings.max_tokens, tokens
        ):
            return False
        return (
            spec is None
            or not (spec.max_requests or spec.max_tokens)
            or _has_room(self._columns.of_model(model), spec.max_requests, spec.max_tokens, tokens)
        )

    def _can_never_fit(self, spec: ModelSpec | None, tokens: int) -> bool:
        limits = (self._settings.max_tokens, 0 if spec is None else spec.max_tokens)
        return any(limit and tokens > limit for limit in limits)

    def _take(self, model: int, tokens: int) -> Ticket:
        self._columns.add(model, requests=1, tokens=tokens)
        return Ticket(self, model, tokens)

    def _wait(self, rank: int, model: int, spec: ModelSpec | None, tokens: int) -> "asyncio.Future[Ticket]":
        queue = self._queue
        if len(queue) >= self._settings.max_queued:
            # The queue is in order, so the least important one that came last is its last.
            if not queue or queue[-1].rank <= rank:
                raise Overloaded("Too many requests are in flight, and too many wait.")
            queue.pop().ticket.set_exception(
                Overloaded("A request of higher priority took the last place in the queue.")
            )
        loop = asyncio.get_running_loop()
        now = loop.time()
        waiting = _Waiting(rank, model, spec, tokens, now + self._settings.max_wait_secs, now, loop.create_future())
        at = next((at for at, other in enumerate(queue) if other.rank > rank), len(queue))
        queue.insert(at, waiting)
        if self._look is None:
            self._look = loop.call_later(LOOK_SECS, self._on_look)
        return waiting.ticket

    def _on_look(self) -> None:
        self._look = None
        self._serve()
        if self._queue:
            self._look = asyncio.get_running_loop().call_later(LOOK_SECS, self._on_look)

    def _serve(self) -> None:
        """Admit whoever fits, in order; one whose model is full does not keep others waiting."""
        now = asyncio.get_running_loop().time()
        queue, self._queue = self._queue, []
        for waiting in queue:
            if waiting.ticket.done():
                continue
            if now >= waiting.deadline:
                waiting.ticket.set_exception(QueueTimeout("Too many requests are in flight; this one waited too long."))
            elif self._fits(waiting.model, waiting.spec, waiting.tokens):
                self._on_waited(now - waiting.started)
                waiting.ticket.set_result(self._take(waiting.model, waiting.tokens))
            else:
                self._queue.append(waiting)


def _has_room(taken: tuple[int, int], max_requests: int, max_tokens: int, tokens: int) -> bool:
    requests_taken, tokens_taken = taken
    if max_requests and requests_taken >= max_requests:
        return False
    return not max_tokens or tokens_taken + tokens <= max_tokens
