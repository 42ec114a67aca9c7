"""What one router remembers of the requests of a recording, from their arrival until they are written.

A request belongs to the recording that was on when it arrived. Its numbers are taken at its choice, completed when it
is given back, and then wait to be written by somebody else (:meth:`Recorder.take`). When the recording is over, what is
still under way is written without its end. Requests that find no room are left out and counted.
"""

from collections.abc import Callable
from typing import NamedTuple

from extproc.api.paths import decoder_for
from extproc.api.request import RoutingRequest
from extproc.policies.base import Choice, prompt_tokens_of
from extproc.recording.prompt_hashes import prompt_hashes
from extproc.recording.record import MAX_INPUT_TOKENS, InputFrom, OutputFrom, Recorded
from extproc.routing.accounting import Flight
from extproc.shm.layout import ENGINE_ROW_NUMBERS
from extproc.shm.recording import Order, RecordingOrder
from extproc.shm.worker_table import Engine, WorkerTable

MAX_HELD_REQUESTS = 50_000
MAX_HELD_BYTES = 16 << 20
"""Most hashes that a router holds until they are written, in bytes."""
MAX_MODEL_CHARACTERS = 128
MAX_OUTPUT_TOKENS = 1 << 24

_NS_PER_SEC = 1e9
_NO_LIMIT = -1
_REFUSED = 400


class Batch(NamedTuple):
    """What is to be written of one recording. ``left_out`` are requests that found no room since the last batch.

    ``closing``: it is the last of this router.
    """

    order: Order
    requests: list[Recorded]
    left_out: int
    closing: bool


class Recorder:
    """Records for one router.

    ``clock`` is that of the accounting, ``assumed_answer_tokens`` that of the routing. ``on_begun`` is told the number
    of each recording with its first request.
    """

    def __init__(
        self,
        *,
        order: RecordingOrder,
        table: WorkerTable,
        clock: Callable[[], float],
        assumed_answer_tokens: int,
        on_begun: Callable[[int], None],
    ) -> None:
        self._order = order
        self._engines = table.engine_numbers
        self._clock = clock
        self._assumed_answer_tokens = assumed_answer_tokens
        self._on_begun = on_begun
        self._session: _Session | None = None
        self._over: list[_Session] = []
        self._held_requests = 0
        self._held_bytes = 0

    def began(self) -> float:
        """Return the time of now for a request that arrives and is to be recorded; 0 for one that is not."""
        until_ns = self._order.until_ns
        if not until_ns:
            return 0.0
        now = self._clock()
        return now if now * _NS_PER_SEC < until_ns else 0.0

    def chosen(self, request: RoutingRequest, choice: Choice, *, policy: str, flight: Flight, arrived: float) -> None:
        """Take a request's numbers at its choice; its end is seen when its flight is given back."""
        if decoder_for(request.method, request.path) is None:
            # Of what is no inference there is nothing to replay.
            return
        session = self._current(flight.started)
        if session is None:
            return
        hashes, tail = prompt_hashes(request.prompts)
        if self._held_requests >= MAX_HELD_REQUESTS or self._held_bytes + len(hashes) > MAX_HELD_BYTES:
            session.left_out += 1
            return
        self._held_requests += 1
        self._held_bytes += len(hashes)
        matched = choice.matched_tokens
        body = request.body
        limit = _NO_LIMIT
        if body is not None:
            # What is in flight is the limit, or what is assumed without one; equal, they are told apart at a cost.
            limit = flight.answer_tokens
            if limit == self._assumed_answer_tokens:
                limit = body.answer_tokens(_NO_LIMIT)
        output_from: OutputFrom = "assumed" if limit == _NO_LIMIT else "limit"
        recorded = Recorded(
            arrived=arrived,
            lasted=None,
            input_length=min(max(prompt_tokens_of(request), 1), MAX_INPUT_TOKENS),
            input_from=_input_from(request),
            output_length=self._assumed_answer_tokens if limit == _NO_LIMIT else limit,
            output_from=output_from,
            hashes=hashes,
            tail=tail,
            model=None if body is None else body.model[:MAX_MODEL_CHARACTERS],
            worker=choice.workers[0].id,
            served=None,
            status=0,
            policy=policy,
            reason=choice.reason,
            matched_tokens=None if matched is None else int(min(matched, MAX_INPUT_TOKENS)),
        )
        watch = _Watch(self, session, recorded, flight)
        session.watches.add(watch)
        flight.on_end = watch.ended

    def take(self) -> list[Batch]:
        """Return what is to be written, by recording. It counts as held until it is :meth:`written`."""
        if self._session is not None and not self._is_on(self._session.order):
            self._over.append(self._session)
            self._session = None
        batches = [session.take(closing=True) for session in self._over]
        self._over.clear()
        if self._session is not None and (self._session.requests or self._session.left_out):
            batches.append(self._session.take(closing=False))
        return batches

    def close(self) -> None:
        """Let the next :meth:`take` be the last: requests that are still under way have no end."""
        if self._session is not None:
            self._over.append(self._session)
            self._session = None

    def written(self, batch: Batch) -> None:
        """Note that a batch needs no room any more."""
        self._held_requests -= len(batch.requests)
        self._held_bytes -= sum([len(recorded.hashes) for recorded in batch.requests])

    @property
    def holds(self) -> int:
        """The number of the recording whose requests are taken; 0 when there is none."""
        return 0 if self._session is None else self._session.order.number

    def _current(self, now: float) -> "_Session | None":
        """Return the session of the order in force; None when it has ended since the request arrived."""
        if now * _NS_PER_SEC >= self._order.until_ns:
            return None
        session = self._session
        if session is not None:
            if session.number == self._order.number:
                return session
            self._over.append(session)
        order = self._order.read()
        self._session = _Session(order)
        self._on_begun(order.number)
        return self._session

    def _is_on(self, order: Order) -> bool:
        now_ns = self._clock() * _NS_PER_SEC
        present = self._order.read()
        return present.number == order.number and now_ns < present.until_ns

    def _complete(self, recorded: Recorded, flight: Flight) -> None:
        """Add what the end of a request tells, now."""
        recorded.status = flight.status
        if not flight.answered_at:
            return
        worker = flight.worker
        recorded.served = worker.id
        if flight.headers_first and flight.early:
            return
        ended = self._clock() if flight.headers_first else flight.answered_at
        recorded.lasted = ended - recorded.arrived
        step_secs = self._engines[worker.slot * ENGINE_ROW_NUMBERS + Engine.DECODE_STEP_SECS]
        if step_secs > 0 and recorded.output_length and flight.status < _REFUSED:
            prefill_rate = self._engines[worker.slot * ENGINE_ROW_NUMBERS + Engine.PREFILL_RATE]
            # What was foretold of its prompt means something once the engine has told its rate.
            secs = ended - (max(flight.done_at, flight.started) if prefill_rate > 0 else flight.started)
            most = recorded.output_length if recorded.output_from == "limit" else MAX_OUTPUT_TOKENS
            recorded.output_length = min(max(round(secs / step_secs), 1), most)
            recorded.output_from = "time"


class _Session:
    """One recording as this router takes part in it."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.number = order.number
        self.requests: list[Recorded] = []
        self.watches: set[_Watch] = set()
        self.left_out = 0

    def take(self, *, closing: bool) -> Batch:
        """Hand over what is complete; with ``closing`` what is not too."""
        if closing:
            self.requests += [watch.recorded for watch in self.watches]
            self.watches.clear()
        batch = Batch(self.order, self.requests, self.left_out, closing)
        self.requests = []
        self.left_out = 0
        return batch


class _Watch:
    """A recorded request under way; takes over what its flight does at its end."""

    __slots__ = ("_flight", "_recorder", "_session", "_then", "recorded")

    def __init__(self, recorder: Recorder, session: _Session, recorded: Recorded, flight: Flight) -> None:
        self.recorded = recorded
        self._recorder = recorder
        self._session = session
        self._flight: Flight | None = flight
        self._then = flight.on_end

    def ended(self) -> None:
        """Complete the record, unless it has been handed over without its end."""
        flight, self._flight = self._flight, None
        assert flight is not None, "a flight ends once"
        if self._then is not None:
            self._then()
        if self in self._session.watches:
            self._session.watches.discard(self)
            self._recorder._complete(self.recorded, flight)  # noqa: SLF001 - a part of it
            self._session.requests.append(self.recorded)


def _input_from(request: RoutingRequest) -> InputFrom:
    if not request.prompts:
        return "size"
    return "text" if request.prompts[0].cache == "text" else "tokens"
