"""A load, replicas of the service and modelled workers, from the first request to the last token."""

import dataclasses
import random
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np

from extproc.api.request import RoutingRequest
from extproc.config.policies import PolicyParameters
from extproc.fleet.candidates import Candidates
from extproc.fleet.worker import Worker
from extproc.policies.base import ROUTING_KEY_HEADERS, Policy, PolicyContext
from extproc.routing.accounting import Flight
from extproc.simulation.cache_view import CacheView
from extproc.simulation.loads.load import BLOCK_TOKENS, Load, Session, Turn
from extproc.simulation.modelled import ModelledWorker
from extproc.simulation.replica import Replica, Router
from extproc.simulation.results import Requests, Samples
from extproc.simulation.timeline import Timeline, VirtualClock
from extproc.tokens.prompt_tokens import PromptTokens
from workers.engine.device import Device
from workers.engine.profile import Profile
from workers.engine.request import Request

OK = 200
SWEEP_SECS = 0.25
"""How often a router gives back what is due."""
LOOKS = 400
"""How often the workers are looked at over the span of a load."""
STARTS_AT = 1000.0
"""Not 0: a time of 0 stands for "never" in the shared tables."""


class Contender(Protocol):
    """A policy that takes part: one of ours, of somebody else, or one that sees what no router can.

    Without ``follows_losses`` it takes all that was ever sent to a worker to be cached there.
    """

    @property
    def name(self) -> str:
        """What it is called in reports."""

    @property
    def follows_losses(self) -> bool:
        """Whether it is told when engines must have evicted what they were sent."""

    def make(self, context: PolicyContext, workers: Sequence[ModelledWorker]) -> Policy:
        """Make the policy for one router; ``workers`` are in the order of the candidates."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a load is played against.

    Every replica of the service has ``routers`` processes with a shared view; requests come to any of them by chance.
    Each engine's metrics are read every ``report_secs`` and reach the service ``report_delay_secs`` later. What an
    engine's cache gains and loses reaches it after ``event_delay_secs``; None: never, so it knows what it has sent.
    Engines seem to prefill ``rate_factor`` times as fast as they do. ``share_device``: all engines on one GPU.
    """

    profile: Profile
    workers: int = 8
    replicas: int = 1
    routers: int = 1
    report_secs: float = 1.0
    report_delay_secs: float = 0.0
    event_delay_secs: float | None = None
    rate_factor: float = 1.0
    share_device: bool = False
    seed: int = 0
    parameters: PolicyParameters = dataclasses.field(default_factory=PolicyParameters)


class Run(NamedTuple):
    """What came of it. ``secs`` is the time from the first request to the end of the last answer."""

    policy: str
    requests: Requests
    samples: Samples
    secs: float
    evictions: int
    preemptions: int
    busy_secs: float


class Simulation:
    """One run of one policy; call :meth:`run` once. ``progress`` is told how many requests have ended."""

    def __init__(
        self,
        *,
        load: Load,
        setting: Setting,
        contender: Contender,
        progress: Callable[[int], None] = lambda _ended: None,
    ) -> None:
        self._load = load
        self._setting = setting
        self._contender = contender
        self._progress = progress
        self._clock = VirtualClock(STARTS_AT)
        self._timeline = Timeline(self._clock)
        self._workers = tuple(
            Worker(id=f"w{number:03}", address=f"10.0.{number >> 8}.{number & 255}:8000", slot=number)
            for number in range(setting.workers)
        )
        self._candidates = Candidates(self._workers)
        device = Device() if setting.share_device else None
        self._engines = [
            ModelledWorker(
                self._timeline,
                setting.profile,
                device=device,
                on_events=None if setting.event_delay_secs is None else partial(self._events_later, number),
            )
            for number in range(setting.workers)
        ]
        self._replicas = [
            Replica(
                make_policy=lambda context: contender.make(context, self._engines),
                parameters=setting.parameters,
                workers=self._workers,
                clock=self._clock,
                seed=setting.seed * setting.replicas + number,
                routers=setting.routers,
                follows_losses=contender.follows_losses,
            )
            for number in range(setting.replicas)
        ]
        told = self._replicas if setting.event_delay_secs is not None else []
        self._views = [CacheView(replica.prefixes, workers=setting.workers) for replica in told]
        self._routers = [router for replica in self._replicas for router in replica.routers]
        self._rng = random.Random(setting.seed)  # noqa: S311 - a simulation is to be repeated
        self._sessions = iter(load.sessions())
        self._more_sessions = True
        self._open = 0
        self._ended = 0
        self._seen: set[int] = set()
        self._requests = Requests()
        self._samples = Samples()

    def run(self) -> Run:
        """Play the whole load, to the end of the last answer."""
        setting, timeline = self._setting, self._timeline
        self._next_session()
        for number in range(setting.workers):
            # Readings of different workers do not come at the same moment.
            timeline.after(setting.report_secs * (number + 1) / setting.workers, partial(self._read_metrics, number))
        timeline.after(SWEEP_SECS, self._sweep)
        timeline.after(0.0, self._look)
        timeline.run()
        counters = [worker.engine.shown.counters for worker in self._engines]
        ends = self._requests.floats("sent_at") + self._requests.floats("latency")
        return Run(
            policy=self._contender.name,
            requests=self._requests,
            samples=self._samples,
            secs=float(ends.max(initial=0.0)),
            evictions=sum(counter.evictions for counter in counters),
            preemptions=sum(counter.preemptions for counter in counters),
            busy_secs=sum(counter.busy_secs for counter in counters),
        )

    @property
    def _over(self) -> bool:
        return not self._open and not self._more_sessions

    # Clients.

    def _next_session(self) -> None:
        session = next(self._sessions, None)
        if session is None:
            self._more_sessions = False
        else:
            self._timeline.at(STARTS_AT + session.starts_at, partial(self._start, session))

    def _start(self, session: Session) -> None:
        self._open += 1
        self._next_session()
        self._send(session, 0)

    def _send(self, session: Session, number: int) -> None:
        turn = session.turns[number]
        following = session.turns[number + 1] if number + 1 < len(session.turns) else None
        hashes = _engine_hashes(turn, following)
        request = _routing_request(session, turn)
        router = self._rng.choice(self._routers)
        choice, flight = router.send(request, self._candidates)
        now = self._clock.now
        row = self._requests.add(
            sent_at=now - STARTS_AT,
            worker=flight.worker.slot,
            prompt=turn.prompt_tokens,
            answer=turn.answer_tokens,
            ideal=self._ideal_tokens(hashes, turn.prompt_tokens),
            matched=-1 if choice.matched_tokens is None else choice.matched_tokens,
        )

        def first(at: float) -> None:
            self._requests.first_token(row, secs=at - now, cached=sent.cached_tokens)

        def end(at: float) -> None:
            self._requests.ended(row, secs=at - now)
            router.accounts.finish(flight)
            self._finished(session, number, following)

        sent = Request(
            prompt_tokens=turn.prompt_tokens,
            answer_tokens=turn.answer_tokens,
            hashes=hashes,
            on_first=first,
            on_end=end,
        )
        self._engines[flight.worker.slot].take(sent, on_headers=partial(_headers, router, flight))

    def _finished(self, session: Session, number: int, following: Turn | None) -> None:
        self._ended += 1
        self._progress(self._ended)
        if following is None:
            self._open -= 1
        else:
            self._timeline.after(following.think_secs, partial(self._send, session, number + 1))

    def _ideal_tokens(self, hashes: list[int], prompt_tokens: int) -> int:
        """Return what one boundless cache would hold of a prompt, and note what it holds from now on."""
        # A hash stands for all before it, so what is known of a chain is a prefix of it.
        known = bisect_left(hashes, 1, key=lambda block_hash: block_hash not in self._seen)
        self._seen.update(hashes[known:])
        return min(known, (prompt_tokens - 1) // BLOCK_TOKENS) * BLOCK_TOKENS

    # The service.

    def _read_metrics(self, number: int) -> None:
        if self._over:
            return
        setting = self._setting
        load = self._engines[number].load()
        key = self._workers[number].key

        def take() -> None:
            for replica in self._replicas:
                replica.read(key, load, rate_factor=setting.rate_factor)

        if setting.report_delay_secs:
            self._timeline.after(setting.report_delay_secs, take)
        else:
            take()
        self._timeline.after(setting.report_secs, partial(self._read_metrics, number))

    def _events_later(self, number: int, events: Sequence[object]) -> None:
        delay = self._setting.event_delay_secs or 0.0
        for view in self._views:
            self._timeline.after(delay, partial(view.apply, number, events))

    def _sweep(self) -> None:
        for replica in self._replicas:
            replica.sweep()
        if not self._over:
            self._timeline.after(SWEEP_SECS, self._sweep)

    def _look(self) -> None:
        if not self._over:
            unfinished = [worker.engine.unfinished + len(worker.arriving) for worker in self._engines]
            self._samples.add(self._clock.now - STARTS_AT, unfinished)
            self._timeline.after(max(self._load.secs, 1.0) / LOOKS, self._look)


def _headers(router: Router, flight: Flight) -> None:
    router.accounts.answered(flight, status=OK, served="", streamed=True)


def _routing_request(session: Session, turn: Turn) -> RoutingRequest:
    """Return what a router knows of a request once its prompt is tokenized; the ids themselves nobody looks at."""
    blocks = turn.blocks
    ids = np.broadcast_to(blocks[:1].astype(np.uint32), (turn.prompt_tokens,))
    prompt = PromptTokens(ids, blocks[: turn.prompt_tokens // BLOCK_TOKENS], BLOCK_TOKENS, 0, "given")
    return RoutingRequest(
        method="POST",
        path="/v1/chat/completions",
        headers={ROUTING_KEY_HEADERS[0]: session.key},
        prompts=(prompt,),
    )


def _engine_hashes(turn: Turn, following: Turn | None) -> list[int]:
    """Return the hashes of the whole blocks of a prompt and, where the next prompt tells them, of its answer."""
    hashes: list[int] = turn.blocks[: turn.prompt_tokens // BLOCK_TOKENS].tolist()
    if following is not None:
        whole = (turn.prompt_tokens + turn.answer_tokens) // BLOCK_TOKENS
        answer: list[int] = following.blocks[len(hashes) : whole].tolist()
        if following.blocks[: len(hashes)].tolist() == hashes:
            hashes += answer
    return hashes
