"""What a routed request weighs, from its choice to the end of its answer, and what its answer tells.

=========================  =====================================================================================
at the choice              one request and the tokens its answer may have are counted at the chosen worker, its prompt
                           is queued there for as long as it takes to compute, and its prefix is recorded there
as time goes by            the queue becomes shorter by itself
at the response headers    what another worker has served moves there; workers that were tried in vain have failed
at the end, however        everything that is left is given back, and the speed of a whole answer is learned
a little later             what the worker's events have not confirmed of the prefix is taken back, if it has any
=========================  =====================================================================================

Nothing that is seen of an answer says when its prompt was done. vLLM sends the headers of a *streamed* answer at once,
before it has begun with the prompt (measured: 20 ms after the request, when the first token came after 7 s), and those
of another with the whole answer; they are its end.

Some data planes close the stream with the response headers or even before (see ``ARCHITECTURE.md``). The request is
still running then, so it *lingers*: it is given back when its expected time is over, or sooner when the engine says
that it has fewer requests than we think.
"""

from collections import deque
from collections.abc import Callable
from typing import Protocol

import msgspec

from extproc.api.request import RoutingRequest
from extproc.fleet.breaker import Breakers
from extproc.fleet.learning import SpeedLearner
from extproc.fleet.prefill import PrefillQueues
from extproc.fleet.worker import Worker
from extproc.index.block_hash import Hashes
from extproc.policies.base import Choice, most_cached_tokens, prompt_tokens_of
from extproc.shm.worker_table import Engine, LoadColumn, WorkerTable

SERVER_ERROR = 500
MAX_LINGER_SECS = 120.0
FIRST_ANSWER_SECS = 5.0
"""How long an answer is taken to be until some are seen."""
MAX_LINGERING = 100_000
MAX_SPECULATIVE = 100_000
"""Requests of which it is kept for a while what they were taken to leave in a cache."""
SETTLING_SECS = 2.0
"""What an engine says of itself may be as old as its longest step: it is not believed earlier."""


class PrefixRecord(Protocol):
    """Where prefixes are recorded (:class:`extproc.index.prefix_index.PrefixIndex`)."""

    def record(self, hashes: Hashes, slot: int) -> Hashes:
        """Note that a worker holds these blocks; returns those that are news."""

    def forget(self, hashes: Hashes, slot: int) -> None:
        """Take back that a worker was sent these blocks."""

    def is_precise(self, slot: int) -> bool:
        """Whether a worker's engine tells of every block that it holds."""


class PromptWork(Protocol):
    """What computing prompts takes (:class:`extproc.fleet.loads.FleetLoads`)."""

    def work_tokens(self, new: float, cached: float) -> float:
        """The work of computing ``new`` tokens after ``cached`` ones."""

    def prefill_rate_at(self, slot: int, *, now: float) -> float:
        """The rate of work of a worker that its policy was told lately; 0 where it was not."""


class Flight(msgspec.Struct, eq=False):
    """One request in flight.

    ``tried`` are the workers of its list and ``worker`` is the one that it counts at. ``ahead`` are the requests that
    were there before it, and ``ahead_secs`` is how long their prompts still took. Its own, of which ``uncached_tokens``
    are to compute, should be in work from ``begins_at`` to ``done_at``. ``answered_at`` and ``status`` are 0 until
    the response headers are seen. ``news`` are the blocks of its prompt that were new to the worker, while they may
    have to be taken back; ``exact`` is whether the events of an engine would name them. ``headers_first`` is whether
    the headers came before the answer, and ``streamed`` whether they did and from the worker that was chosen.
    ``early``: the stream has ended, the answer perhaps not. ``trial`` is what the breakers want to know of it when
    nothing becomes of it, 0 when it is no trial.
    """

    tried: tuple[Worker, ...]
    worker: Worker
    started: float
    ahead: int
    uncached_tokens: int
    answer_tokens: int
    work_tokens: float = 0.0
    ahead_secs: float = 0.0
    begins_at: float = 0.0
    done_at: float = 0.0
    hashes: Hashes | None = None
    news: Hashes | None = None
    exact: bool = False
    answered_at: float = 0.0
    status: int = 0
    streamed: bool = False
    headers_first: bool = False
    early: bool = False
    trial: float = 0.0
    over: bool = False
    on_end: Callable[[], None] | None = None
    """Called once when the request is given back, for what else it holds."""


class Accounts:
    """The accounting of one router. ``clock`` is that of the worker table.

    ``worker_at`` finds the worker at an address, of a server with ranks the one that the request has named.
    What an engine's events have not confirmed ``speculative_secs`` after the end of a request is taken back.
    """

    def __init__(
        self,
        *,
        column: LoadColumn,
        table: WorkerTable,
        prefixes: PrefixRecord,
        breakers: Breakers,
        work: PromptWork,
        worker_at: Callable[[str, int | None], Worker | None],
        clock: Callable[[], float],
        assumed_answer_tokens: int,
        speculative_secs: float,
    ) -> None:
        self._column = column
        self._table = table
        self._prefixes = prefixes
        self._breakers = breakers
        self._work = work
        self._learner = SpeedLearner(table)
        self._queues = PrefillQueues(table)
        self._worker_at = worker_at
        self._clock = clock
        self._assumed_answer_tokens = assumed_answer_tokens
        self._speculative_secs = speculative_secs
        self._lingering: deque[tuple[float, Flight]] = deque()
        self._speculative: deque[tuple[float, Hashes, int]] = deque()

    def start(self, request: RoutingRequest, choice: Choice, *, record: bool) -> Flight:
        """Count a request at the first worker of a choice; ``record`` its prefix there, for policies that look."""
        now = self._clock()
        worker = choice.workers[0]
        tokens = prompt_tokens_of(request)
        answer_tokens = self._assumed_answer_tokens
        if request.body is not None:
            answer_tokens = request.body.answer_tokens(answer_tokens)
        flight = Flight(
            tried=choice.workers,
            worker=worker,
            started=now,
            ahead=self._table.requests_at(worker.slot),
            uncached_tokens=tokens,
            answer_tokens=answer_tokens,
        )
        news = self._record(flight, request, choice) if record and request.prompts else 0
        flight.work_tokens = self._work.work_tokens(flight.uncached_tokens, tokens - flight.uncached_tokens)
        self._queue(flight, now)
        flight.ahead_secs = flight.begins_at - now
        self._learner.sent(worker.slot, new_tokens=flight.uncached_tokens, work_tokens=flight.work_tokens)
        self._column.add(worker.slot, requests=1, decode_tokens=answer_tokens)
        self._column.note_sent(worker.slot, tokens=tokens, blocks=news)
        flight.trial = self._breakers.try_out(worker.slot)
        return flight

    def answered(self, flight: Flight, *, status: int, served: str, streamed: bool) -> None:
        """Take the response headers; an empty ``served`` is not known. See the module for ``streamed`` answers."""
        if flight.answered_at or flight.over:
            return
        flight.answered_at = now = self._clock()
        flight.status = status
        flight.headers_first = streamed
        first = flight.worker
        server = first if not served or served == first.address else self._worker_at(served, first.sent_rank)
        if server is not first:
            self._served_by_another(flight, server, served)
        failed = status >= SERVER_ERROR
        if server is not None:
            (self._breakers.failed if failed else self._breakers.succeeded)(server.slot)
        if failed:
            self._take_back(flight)
        elif server is first:
            flight.streamed = streamed
            if not streamed:
                self._learn(flight, now)
        elif server is not None and streamed:
            # These headers come before the prompt is computed, so it is queued there from now on.
            self._queue(flight, now)
        if failed or not streamed:
            self._unqueue(flight, now)
        flight.hashes = None
        if failed or not self._is_speculative(flight):
            flight.news = None

    def finish(self, flight: Flight, *, early: bool = False) -> None:
        """Give back what is left; further calls do nothing. ``early``: the stream ended, the answer perhaps not."""
        if flight.over:
            return
        flight.over = True
        flight.early = early
        if early and len(self._lingering) < MAX_LINGERING:
            self._linger(flight)
            return
        now = self._clock()
        self._end(flight, now)
        if flight.answered_at:
            self._learner.answer_ended(flight.worker.slot, secs=now - flight.answered_at)
            if flight.streamed:
                self._learn(flight, now)

    def sweep(self) -> None:
        """Give back what its expected time, or the engine, says is done. Call regularly."""
        now = self._clock()
        for _ in range(len(self._lingering)):
            due, flight = self._lingering.popleft()
            if now >= due or self._is_gone(flight):
                self._end(flight, now)
            else:
                self._lingering.append((due, flight))
        while self._speculative and self._speculative[0][0] <= now:
            self._take_back_first()

    def _learn(self, flight: Flight, now: float) -> None:
        self._learner.answered(
            flight.worker.slot,
            work_tokens=flight.work_tokens,
            ahead=flight.ahead,
            ahead_secs=flight.ahead_secs,
            elapsed_secs=now - flight.started,
            streamed=flight.streamed,
        )

    def _record(self, flight: Flight, request: RoutingRequest, choice: Choice) -> int:
        prompt = request.prompts[0]
        flight.hashes = prompt.block_hashes
        flight.exact = prompt.exact and prompt.cache != "text"
        flight.news = self._prefixes.record(prompt.block_hashes, flight.worker.slot)
        known = (len(prompt.block_hashes) - len(flight.news)) * prompt.block_size
        cached = known if choice.matched_tokens is None else choice.matched_tokens
        cached = min(cached, most_cached_tokens(prompt))
        flight.uncached_tokens = max(flight.uncached_tokens - cached, 1)
        return len(flight.news)

    def _served_by_another(self, flight: Flight, server: Worker | None, served: str) -> None:
        """Move a request to the worker that has served it; those before it on the list have failed."""
        for worker in flight.tried:
            if worker.address == served:
                break
            self._breakers.failed(worker.slot)
        self._unqueue(flight, flight.answered_at)
        self._take_back(flight)
        if server is None:
            return
        named = flight.worker.sent_rank is not None
        self._column.add(flight.worker.slot, requests=-1, decode_tokens=-flight.answer_tokens)
        self._column.add(server.slot, requests=1, decode_tokens=flight.answer_tokens)
        # A server that was told no rank has put the prompt into the cache of any.
        if flight.hashes is not None and (named or server.ranks == 1):
            flight.news = self._prefixes.record(flight.hashes, server.slot)
            self._column.note_sent(server.slot, tokens=0, blocks=len(flight.news))
        else:
            flight.news = None
        flight.worker = server

    def _take_back(self, flight: Flight) -> None:
        """Forget that a worker was sent a prefix: the request has not reached it, or it has not served it."""
        if flight.news is not None:
            self._prefixes.forget(flight.news, flight.worker.slot)

    def _is_speculative(self, flight: Flight) -> bool:
        """Whether an event should say that the worker holds what it was sent."""
        return flight.exact and self._prefixes.is_precise(flight.worker.slot)

    def _settle(self, flight: Flight, now: float) -> None:
        """Take back soon what no event has confirmed of what a request was to leave in the cache."""
        news, flight.hashes, flight.news = flight.news, None, None
        if news is not None and len(news) and self._is_speculative(flight):
            self._speculative.append((now + self._speculative_secs, news, flight.worker.slot))
            if len(self._speculative) > MAX_SPECULATIVE:
                self._take_back_first()

    def _take_back_first(self) -> None:
        _, hashes, slot = self._speculative.popleft()
        # Of a worker whose events are not followed any more, nothing will ever be confirmed.
        if self._prefixes.is_precise(slot):
            self._prefixes.forget(hashes, slot)

    def _queue(self, flight: Flight, now: float) -> None:
        """Put a prompt at the end of what its worker has to compute."""
        slot = flight.worker.slot
        # The very rate that the policy has weighed with, so that the next one sees what this one has foretold.
        rate = self._work.prefill_rate_at(slot, now=now) or self._learner.prefill_rate(slot)
        flight.begins_at, flight.done_at = self._queues.put(slot, flight.work_tokens / rate, now=now)

    def _unqueue(self, flight: Flight, now: float) -> None:
        """Take out what should be left of a prompt that its worker does not, or need not, compute any more."""
        if flight.done_at > now:
            self._queues.give_back(flight.worker.slot, flight.begins_at, flight.done_at, now=now)
            flight.done_at = flight.begins_at = now

    def _end(self, flight: Flight, now: float) -> None:
        self._unqueue(flight, now)
        self._column.add(flight.worker.slot, requests=-1, decode_tokens=-flight.answer_tokens)
        if not flight.answered_at:
            self._breakers.give_up(flight.worker.slot, flight.trial)
        self._settle(flight, now)
        if flight.on_end is not None:
            flight.on_end()

    def _linger(self, flight: Flight) -> None:
        slot = flight.worker.slot
        secs = self._learner.answer_secs(slot) or FIRST_ANSWER_SECS
        if not flight.answered_at:
            secs += self._learner.first_byte_secs(slot, work_tokens=flight.work_tokens, ahead=flight.ahead)
        flight.hashes = None
        self._lingering.append((self._clock() + min(secs, MAX_LINGER_SECS), flight))

    def _is_gone(self, flight: Flight) -> bool:
        """Whether the engine was asked after the request was sent and has fewer requests than all routers count."""
        slot = flight.worker.slot
        engine = self._table.engines[slot]
        if engine[Engine.SCRAPED_AT] <= flight.started + SETTLING_SECS:
            return False
        known = engine[Engine.RUNNING] + engine[Engine.WAITING]
        return bool(self._table.requests_at(slot) > known)
