"""Lets in as many requests as the limits allow; the others wait for a while, the more important ones in front.

What is in flight is counted over all routers (``shm/admission.py``); each router has a queue of its own. A router that
gives a place back looks at its queue at once, and every ``LOOK_SECS`` for places that other routers gave back.

The queue is in order of priority, then of arrival, and nobody overtakes: while somebody waits for room among all
requests, so do all behind, however little they need; while somebody waits for room in one model, so do those behind of
that model, but nobody else. A newcomer is held to the same order. Whoever cannot wait is refused before anything of its
prompt is read, so refusing stays cheap when there is most of it.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Callable
from typing import NamedTuple, Protocol

from extproc.api.request import RoutingRequest
from extproc.config.admission import PRIORITIES, AdmissionSettings
from extproc.config.models import ModelSpec
from extproc.errors import InvalidRequest, Overloaded, QueueTimeout
from extproc.policies.base import header_of, prompt_tokens_of

LOOK_SECS = 0.01
PRIORITY_HEADERS = ("x-extproc-priority", "x-smg-priority")


class Columns(Protocol):
    """What is admitted over all routers (:class:`extproc.shm.admission.AdmissionColumns`)."""

    def add(self, model: int, *, requests: int, tokens: int) -> None:
        """Count what this router admits up or down."""

    def of_model(self, model: int) -> tuple[int, int]:
        """Requests and tokens of one model."""

    def total(self) -> tuple[int, int]:
        """Requests and tokens of all."""


class _Limits(NamedTuple):
    """The place of a model in the columns, and its own limits; 0: none."""

    place: int = 0
    max_requests: int = 0
    max_tokens: int = 0

    @property
    def any(self) -> bool:
        return bool(self.max_requests or self.max_tokens)


_UNKNOWN_MODEL = _Limits()


class Ticket:
    """A place that one request holds or waits for.

    While it waits there is ``granted``, a future that is done when the place is there; or it raises why there is none:
    :class:`~extproc.errors.QueueTimeout` (503), or :class:`~extproc.errors.Overloaded` (429) where a request of higher
    priority has taken the place in the queue. :meth:`release` has to be called in any case.
    """

    __slots__ = ("_admission", "deadline", "granted", "limits", "model", "rank", "started", "tokens")

    def __init__(self, admission: "Admission", *, model: str, limits: _Limits, rank: int, tokens: int) -> None:
        self._admission: Admission | None = admission
        self.model = model
        self.limits = limits
        self.rank = rank
        self.tokens = tokens
        self.started = 0.0
        self.deadline = 0.0
        self.granted: asyncio.Future[None] | None = None

    def release(self) -> None:
        """Give the place back, or leave the queue; further calls do nothing."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission.released(self)


class Admission:
    """The gate of one router.

    ``models`` returns the configured models as they are at the moment. ``on_waited`` is told how many seconds each
    request that was let in after all had to wait.
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
        self._max_queued = settings.max_queued
        self._max_wait_secs = settings.max_wait_secs
        self._all = _Limits(0, settings.max_requests, settings.max_tokens)
        self._columns = columns
        self._models = models
        self._on_waited = on_waited
        self._assumed_answer_tokens = assumed_answer_tokens
        self._default_rank = PRIORITIES.index(settings.default_priority)
        self._known: tuple[ModelSpec, ...] | None = None
        self._limits: dict[str, _Limits] = {}
        self._limited = self._all.any
        self._queue: list[Ticket] = []
        self._full_models: set[int] = set()
        self._look: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._queue)

    @property
    def longest_wait_secs(self) -> float:
        """How long a request may wait now; 0 where none has to."""
        return self._max_wait_secs if self._limited and self._max_queued else 0.0

    def admit(self, request: RoutingRequest, spec: ModelSpec | None) -> Ticket | None:
        """Give a request a place, or one in the queue; None where nothing limits it.

        Raises :class:`~extproc.errors.Overloaded` (429) when it cannot wait, and
        :class:`~extproc.errors.InvalidRequest` (400) for a priority that is none. ``spec`` is the request's model, None
        when it is not configured.
        """
        if self._models() is not self._known:
            self._read_models()
        if not self._limited:
            return None
        model = "" if spec is None else spec.name
        limits = self._limits.get(model, _UNKNOWN_MODEL)
        if not (limits.any or self._all.any):
            return None
        ticket = Ticket(self, model=model, limits=limits, rank=self._rank(request), tokens=self._tokens(request))
        if not self._has_to_wait(ticket):
            self._take(ticket)
        elif any(one.max_tokens and ticket.tokens > one.max_tokens for one in (limits, self._all)):
            raise Overloaded("The request alone has more tokens than may be in flight.")
        else:
            self._wait(ticket)
        return ticket

    def released(self, ticket: Ticket) -> None:
        """Take back what a ticket has; for :class:`Ticket`."""
        if ticket.granted is None:
            self._columns.add(ticket.limits.place, requests=-1, tokens=-ticket.tokens)
        elif ticket in self._queue:
            self._queue.remove(ticket)
            ticket.granted.cancel()
        if self._queue:
            self._serve()

    def _read_models(self) -> None:
        self._known = models = self._models()
        self._limits = {
            spec.name: _Limits(place, spec.max_requests, spec.max_tokens) for place, spec in enumerate(models, start=1)
        }
        self._limited = self._all.any or any(limits.any for limits in self._limits.values())
        for ticket in self._queue:
            ticket.limits = self._limits.get(ticket.model, _UNKNOWN_MODEL)

    def _rank(self, request: RoutingRequest) -> int:
        name = header_of(request, PRIORITY_HEADERS)
        if not name:
            return self._default_rank
        if name not in PRIORITIES:
            raise InvalidRequest(f"The priority must be one of {', '.join(PRIORITIES)}.", param=PRIORITY_HEADERS[0])
        return PRIORITIES.index(name)

    def _tokens(self, request: RoutingRequest) -> int:
        assumed = self._assumed_answer_tokens
        answer = assumed if request.body is None else request.body.answer_tokens(assumed)
        return prompt_tokens_of(request) + answer

    def _has_to_wait(self, ticket: Ticket) -> bool:
        if self._queue:
            if self._is_behind_another(ticket):
                return True
            # Others may have got room in the meantime, and they were here first.
            self._serve()
            if self._is_behind_another(ticket):
                return True
        return not self._has_room_for(ticket)

    def _is_behind_another(self, ticket: Ticket) -> bool:
        """Whether somebody of at least its priority waits for the same room."""
        place = ticket.limits.place
        for other in self._queue:
            if other.rank > ticket.rank:
                return False
            if other.limits.place == place or other.limits.place not in self._full_models:
                return True
        return False

    def _take(self, ticket: Ticket) -> None:
        self._columns.add(ticket.limits.place, requests=1, tokens=ticket.tokens)

    def _wait(self, ticket: Ticket) -> None:
        queue = self._queue
        if len(queue) >= self._max_queued:
            # The queue is in order, so the least important one that came last is its last.
            if not queue or queue[-1].rank <= ticket.rank:
                raise Overloaded("Too many requests are in flight, and too many wait.")
            self._displace(queue.pop())
        loop = asyncio.get_running_loop()
        ticket.granted = loop.create_future()
        ticket.started = loop.time()
        ticket.deadline = ticket.started + self._max_wait_secs
        queue.insert(bisect_right(queue, ticket.rank, key=lambda other: other.rank), ticket)
        if self._look is None:
            self._look = loop.call_later(LOOK_SECS, self._on_look)

    def _displace(self, ticket: Ticket) -> None:
        if ticket.granted is not None and not ticket.granted.done():
            ticket.granted.set_exception(Overloaded("A request of higher priority took the last place in the queue."))

    def _on_look(self) -> None:
        self._look = None
        self._serve()
        if self._queue:
            self._look = asyncio.get_running_loop().call_later(LOOK_SECS, self._on_look)

    def _serve(self) -> None:
        """Let in whoever has room, in order, and refuse who has waited too long."""
        if self._models() is not self._known:
            self._read_models()
        now = asyncio.get_running_loop().time()
        queue, self._queue = self._queue, []
        self._full_models = set()
        all_full = False
        for ticket in queue:
            granted = ticket.granted
            if granted is None or granted.done():
                # Whoever waited has gone, and releases the ticket in a moment.
                continue
            if not (all_full or ticket.limits.place in self._full_models) and self._has_room_for(ticket):
                self._take(ticket)
                self._on_waited(now - ticket.started)
                ticket.granted = None
                granted.set_result(None)
            elif now >= ticket.deadline:
                granted.set_exception(QueueTimeout("Too many requests are in flight; this one waited too long."))
            else:
                self._queue.append(ticket)
                all_full = all_full or ticket.limits.place not in self._full_models

    def _has_room_for(self, ticket: Ticket) -> bool:
        if not self._has_room(ticket.limits, ticket.tokens):
            self._full_models.add(ticket.limits.place)
            return False
        return self._has_room(self._all, ticket.tokens)

    def _has_room(self, limits: _Limits, tokens: int) -> bool:
        if not limits.any:
            return True
        taken_requests, taken_tokens = (
            self._columns.total() if limits is self._all else self._columns.of_model(limits.place)
        )
        if limits.max_requests and taken_requests >= limits.max_requests:
            return False
        return not limits.max_tokens or taken_tokens + tokens <= limits.max_tokens
