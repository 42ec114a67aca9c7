"""Whatever happens in whatever order: limits hold, nobody overtakes, and all that was taken is given back."""

import dataclasses

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from extproc.api.request import RoutingRequest
from extproc.config.admission import PRIORITIES, AdmissionSettings
from extproc.config.models import ModelSpec
from extproc.errors import Overloaded, QueueTimeout
from extproc.routing.admission import LOOK_SECS, Admission, Ticket
from extproc.shm.admission import AdmissionColumns
from extproc.shm.segment import Segment
from tests.support.loops import ClockedLoop

PROCESSES = 2
MAX_QUEUED = 4
MAX_WAIT_SECS = 1.0


@dataclasses.dataclass(eq=False)
class Held:
    """A ticket that was given, with what it was asked for."""

    process: int
    model: int
    tokens: int
    rank: int
    ticket: Ticket

    @property
    def is_in(self) -> bool:
        return self.ticket.granted is None

    @property
    def waits(self) -> bool:
        return self.ticket.granted is not None and not self.ticket.granted.done()


class Service(RuleBasedStateMachine):
    """The gates of two processes, and every ticket that is not yet released."""

    @initialize(
        all_requests=st.integers(0, 4),
        all_tokens=st.sampled_from([0, 30]),
        of_models=st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0, 20])), min_size=2, max_size=2),
    )
    def start(self, all_requests: int, all_tokens: int, of_models: list[tuple[int, int]]) -> None:
        self.loop = ClockedLoop()
        self.segment = Segment.create({})
        self.segment.close()
        self.models = tuple(
            ModelSpec(name=str(place), max_requests=requests, max_tokens=tokens)
            for place, (requests, tokens) in enumerate(of_models, start=1)
        )
        self.limits = ((all_requests, all_tokens), *of_models)
        self.columns = [AdmissionColumns(self.segment, process_slot=slot) for slot in range(PROCESSES)]
        self.gates = [
            Admission(
                settings=AdmissionSettings(
                    max_requests=all_requests,
                    max_tokens=all_tokens,
                    max_queued=MAX_QUEUED,
                    max_wait_secs=MAX_WAIT_SECS,
                ),
                columns=columns,
                models=lambda: self.models,
                on_waited=self.waited,
                assumed_answer_tokens=0,
            )
            for columns in self.columns
        ]
        self.held: list[Held] = []

    def waited(self, secs: float) -> None:
        assert secs >= 0

    def taken(self, model: int | None = None) -> tuple[int, int]:
        """Requests and tokens that are in, of a model or of all, as the tickets say."""
        chosen = [one for one in self.held if one.is_in and model in (None, one.model)]
        return len(chosen), sum(one.tokens for one in chosen)

    def has_room(self, model: int, tokens: int, *, among_all: bool = True) -> bool:
        places = [(self.limits[model], self.taken(model))] if model else []
        if among_all:
            places.append((self.limits[0], self.taken()))
        return all(
            (not requests or taken[0] < requests) and (not most or taken[1] + tokens <= most)
            for (requests, most), taken in places
        )

    def in_front(self, process: int, rank: int, model: int) -> list[Held]:
        """Those who wait in a process for what somebody of this rank and model would take.

        Of another model only the first: whoever waits behind it waits for room in that model.
        """
        waiting = [one for one in self.held if one.waits and one.process == process and one.rank <= rank]
        firsts: dict[int, Held] = {}
        for one in sorted(waiting, key=lambda one: one.rank):
            firsts.setdefault(one.model, one)
        return [
            one
            for one in firsts.values()
            if one.model == model or self.has_room(one.model, one.tokens, among_all=False)
        ]

    @rule(
        process=st.integers(0, PROCESSES - 1),
        model=st.integers(0, 2),
        tokens=st.integers(0, 12),
        priority=st.sampled_from(PRIORITIES),
    )
    def ask(self, process: int, model: int, tokens: int, priority: str) -> None:
        request = RoutingRequest(
            method="POST",
            path="/",
            headers={"content-length": str(4 * tokens), "x-extproc-priority": priority},
        )
        spec = self.models[model - 1] if model else None
        rank = PRIORITIES.index(priority)
        gate = self.gates[process]
        waiting = [one for one in self.held if one.waits and one.process == process]
        try:
            ticket = self.loop.settle(lambda: gate.admit(request, spec))
        except Overloaded:
            most = [limits[1] for limits in (self.limits[0], self.limits[model]) if limits[1]]
            full = len(waiting) >= MAX_QUEUED and all(one.rank <= rank for one in waiting if one.waits)
            assert full or any(tokens > limit for limit in most)
            return
        if ticket is None:
            assert not any(self.limits[0])
            assert not model or not any(self.limits[model])
            return
        in_front, has_room = self.in_front(process, rank, model), self.has_room(model, tokens)
        asked = Held(process, model, tokens, rank, ticket)
        self.held.append(asked)
        assert asked.is_in == (has_room and not in_front)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), cancelled=st.booleans(), again=st.booleans())
    def release(self, data: st.DataObject, cancelled: bool, again: bool) -> None:
        """End a request in whatever state: served, waiting, refused, or given up with its wait cancelled."""
        one = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))

        def end() -> None:
            if cancelled and one.ticket.granted is not None:
                one.ticket.granted.cancel()
            one.ticket.release()
            if again:
                one.ticket.release()

        self.loop.settle(end)
        self.forget_refused()

    @rule(secs=st.sampled_from([LOOK_SECS, MAX_WAIT_SECS / 2, MAX_WAIT_SECS]))
    def pass_time(self, secs: float) -> None:
        self.loop.advance(secs)
        self.forget_refused()
        now = self.loop.time()
        for one in self.held:
            assert not one.waits or now < one.ticket.deadline
            # Two looks, as what one process gave back in its own is seen by the other in its next.
        self.loop.advance(LOOK_SECS)
        self.loop.advance(LOOK_SECS)
        self.forget_refused()
        for process in range(PROCESSES):
            waiting = sorted((one for one in self.held if one.waits and one.process == process), key=lambda o: o.rank)
            if waiting:
                assert not self.has_room(waiting[0].model, waiting[0].tokens)

    def forget_refused(self) -> None:
        """Release the tickets of those who were refused while they waited."""
        for one in list(self.held):
            granted = one.ticket.granted
            if granted is not None and granted.done():
                assert isinstance(granted.exception(), QueueTimeout | Overloaded)
                self.loop.settle(one.ticket.release)
                self.held.remove(one)

    @invariant()
    def what_is_counted_is_what_is_in(self) -> None:
        assert self.columns[0].total() == self.taken()
        for model, (requests, tokens) in enumerate(self.limits):
            taken = self.taken(model) if model else self.taken()
            if model and self.limits[model] != (0, 0):
                assert self.columns[1].of_model(model) == taken
            assert not requests or taken[0] <= requests
            assert not tokens or taken[1] <= tokens

    @invariant()
    def queues_are_bounded(self) -> None:
        for process, gate in enumerate(self.gates):
            assert gate.waiting == sum(one.waits for one in self.held if one.process == process)
            assert gate.waiting <= MAX_QUEUED

    def teardown(self) -> None:
        if not hasattr(self, "held"):
            return
        try:
            for one in self.held:
                self.loop.settle(one.ticket.release)
            assert self.columns[0].total() == (0, 0)
            assert [gate.waiting for gate in self.gates] == [0, 0]
        finally:
            self.loop.close()


TestAdmission = Service.TestCase
TestAdmission.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
