"""Who is let in, who waits and in which order, and who is sent away."""

import pytest

from extproc.api.body import RequestBody
from extproc.api.request import RoutingRequest
from extproc.config.admission import AdmissionSettings
from extproc.config.models import ModelSpec
from extproc.errors import InvalidRequest, Overloaded, QueueTimeout
from extproc.routing.admission import Admission, Ticket
from extproc.shm.admission import AdmissionColumns
from extproc.shm.segment import Segment
from tests.support.fleets import Shared

ANSWER_TOKENS = 10


class Gate:
    """The gate of one process; several on one ``segment`` are those of one service."""

    def __init__(
        self,
        *models: ModelSpec,
        segment: Segment | None = None,
        process_slot: int = 0,
        max_wait_secs: float = 60.0,
        **settings: int | str,
    ) -> None:
        self.segment = segment or Shared().segment
        self.models = models
        self.columns = AdmissionColumns(self.segment, process_slot=process_slot)
        self.waits: list[float] = []
        self.admission = Admission(
            settings=AdmissionSettings(max_wait_secs=max_wait_secs, **settings),  # type: ignore[arg-type]
            columns=self.columns,
            models=lambda: self.models,
            on_waited=self.waits.append,
            assumed_answer_tokens=ANSWER_TOKENS,
        )

    def ask(self, model: str = "", *, prompt_tokens: int = 0, priority: str = "") -> Ticket:
        """Ask for a request that something limits."""
        ticket = self.admission.admit(asking(prompt_tokens, priority), self.spec(model))
        assert ticket is not None
        return ticket

    def spec(self, model: str) -> ModelSpec | None:
        return next((spec for spec in self.models if spec.name == model), None)

    @property
    def waiting(self) -> int:
        return self.admission.waiting


def asking(prompt_tokens: int = 0, priority: str = "") -> RoutingRequest:
    headers = {"content-length": str(4 * prompt_tokens)}
    if priority:
        headers["x-extproc-priority"] = priority
    return RoutingRequest(method="POST", path="/v1/chat/completions", headers=headers)


def is_in(ticket: Ticket) -> bool:
    return ticket.granted is None


SMALL = ModelSpec(name="small", max_requests=1)
FREE = ModelSpec(name="free")


def test_where_nothing_is_limited_nothing_is_counted_and_no_header_is_looked_at() -> None:
    gate = Gate(FREE)
    assert gate.admission.admit(asking(priority="nonsense"), FREE) is None
    assert gate.columns.total() == (0, 0)


def test_a_model_without_a_limit_has_no_ticket_beside_one_with() -> None:
    gate = Gate(SMALL, FREE)
    assert gate.admission.admit(asking(), FREE) is None
    assert gate.admission.admit(asking(), None) is None
    assert is_in(gate.ask("small"))


def test_a_place_is_counted_under_its_model_and_given_back_once() -> None:
    gate = Gate(FREE, SMALL, max_requests=5)
    ticket, other = gate.ask("small", prompt_tokens=30), gate.ask("free")
    assert gate.columns.of_model(2) == (1, 30 + ANSWER_TOKENS)
    assert gate.columns.total() == (2, 30 + 2 * ANSWER_TOKENS)
    ticket.release()
    ticket.release()
    assert gate.columns.total() == (1, ANSWER_TOKENS)
    other.release()
    assert gate.columns.total() == (0, 0)


def test_the_tokens_of_an_answer_are_those_that_the_request_allows() -> None:
    gate = Gate(max_tokens=1000)
    request = asking(30)
    request.body = RequestBody(model="m", max_tokens=b"500")  # type: ignore[arg-type]  # a Raw is made of bytes
    assert gate.admission.admit(request, None) is not None
    assert gate.columns.total() == (1, 530)


async def test_over_the_limit_of_requests_they_wait_until_one_has_ended() -> None:
    gate = Gate(max_requests=2)
    first, _second = gate.ask(), gate.ask()
    third = gate.ask()
    assert third.granted is not None
    assert (gate.columns.total()[0], gate.waiting) == (2, 1)
    waits = third.granted
    first.release()
    await waits
    assert (is_in(third), gate.columns.total()[0], gate.waiting) == (True, 2, 0)
    assert len(gate.waits) == 1


async def test_over_the_limit_of_tokens_they_wait_until_there_is_room_for_all_of_theirs() -> None:
    gate = Gate(max_tokens=100)
    first, second = gate.ask(prompt_tokens=30), gate.ask(prompt_tokens=30)
    third = gate.ask(prompt_tokens=60)
    first.release()
    assert not is_in(third)
    second.release()
    assert is_in(third)
    assert gate.columns.total() == (1, 70)


async def test_a_request_that_alone_is_over_a_limit_is_told_so_and_does_not_wait() -> None:
    gate = Gate(ModelSpec(name="tight", max_tokens=50), max_tokens=100)
    for model, prompt_tokens in (("", 91), ("tight", 41)):
        with pytest.raises(Overloaded, match="alone"):
            gate.ask(model, prompt_tokens=prompt_tokens)
    assert is_in(gate.ask("tight", prompt_tokens=40))
    assert gate.waiting == 0


async def test_the_queue_is_in_order_of_priority_then_of_arrival() -> None:
    gate = Gate(max_requests=1)
    current = gate.ask()
    tickets = [gate.ask(priority=priority) for priority in ("low", "", "high", "normal", "low", "high")]
    waiting, served = list(tickets), []
    while waiting:
        current.release()
        (current,) = [ticket for ticket in waiting if is_in(ticket)]
        waiting.remove(current)
        served.append(current)
    assert served == [tickets[place] for place in (2, 5, 1, 3, 0, 4)]


@pytest.mark.parametrize(("default", "served"), [("high", "without"), ("low", "with")])
async def test_a_request_without_a_priority_has_the_configured_one(default: str, served: str) -> None:
    gate = Gate(max_requests=1, default_priority=default)
    current = gate.ask()
    asked = {"with": gate.ask(priority="normal"), "without": gate.ask()}
    current.release()
    assert [name for name, ticket in asked.items() if is_in(ticket)] == [served]


@pytest.mark.parametrize("header", ["x-extproc-priority", "x-smg-priority"])
async def test_the_priority_is_read_from_either_header(header: str) -> None:
    gate = Gate(max_requests=1, max_queued=1)
    gate.ask()
    displaced = gate.ask()
    request = asking()
    request.headers = {header: "high"}
    assert gate.admission.admit(request, None) is not None
    with pytest.raises(Overloaded):
        await waits(displaced)


def test_an_unknown_priority_is_refused_naming_the_header() -> None:
    with pytest.raises(InvalidRequest, match="high, normal, low") as refused:
        Gate(max_requests=1).ask(priority="urgent")
    assert (refused.value.status, refused.value.param) == (400, "x-extproc-priority")


async def test_a_full_queue_sends_away_whoever_is_not_more_important_than_its_last() -> None:
    gate = Gate(max_requests=1, max_queued=2)
    gate.ask()
    gate.ask()
    gate.ask()
    for priority in ("normal", "low"):
        with pytest.raises(Overloaded) as refused:
            gate.ask(priority=priority)
        assert (refused.value.status, refused.value.retry_after_secs) == (429, 1)


async def test_a_full_queue_gives_the_last_place_to_a_higher_priority() -> None:
    gate = Gate(max_requests=1, max_queued=2)
    current = gate.ask()
    stays, displaced = gate.ask(), gate.ask()
    higher = gate.ask(priority="high")
    with pytest.raises(Overloaded, match="higher priority") as refused:
        await waits(displaced)
    assert refused.value.status == 429
    displaced.release()
    assert gate.waiting == 2
    current.release()
    assert (is_in(higher), is_in(stays)) == (True, False)


def test_where_nobody_may_wait_the_first_over_the_limit_is_sent_away() -> None:
    gate = Gate(max_requests=1, max_queued=0)
    gate.ask()
    with pytest.raises(Overloaded):
        gate.ask(priority="high")


async def test_whoever_waits_too_long_is_told_to_come_back() -> None:
    gate = Gate(max_requests=1, max_wait_secs=0.01)
    gate.ask()
    ticket = gate.ask()
    with pytest.raises(QueueTimeout) as refused:
        await waits(ticket)
    assert (refused.value.status, refused.value.reason, refused.value.retry_after_secs) == (503, "queue_timeout", 1)
    ticket.release()
    assert (gate.columns.total()[0], gate.waiting, gate.waits) == (1, 0, [])


async def test_whoever_gives_up_leaves_the_queue_and_its_place_in_it_can_be_taken() -> None:
    gate = Gate(max_requests=1, max_queued=1)
    current = gate.ask()
    gone = gate.ask()
    gone.release()
    assert gate.waiting == 0
    other = gate.ask()
    current.release()
    assert is_in(other)
    gone.release()
    assert gate.columns.total()[0] == 1


async def test_a_wait_that_was_cancelled_is_passed_over_until_its_ticket_is_released() -> None:
    gate = Gate(max_requests=1, max_queued=1)
    current = gate.ask()
    gone = gate.ask(priority="low")
    assert gone.granted is not None
    gone.granted.cancel()
    higher = gate.ask(priority="high")
    current.release()
    gone.release()
    assert is_in(higher)
    assert gate.columns.total()[0] == 1


async def test_a_place_that_was_granted_to_somebody_who_has_gone_is_given_back() -> None:
    gate = Gate(max_requests=1)
    current = gate.ask()
    ticket = gate.ask()
    current.release()
    assert is_in(ticket)
    ticket.release()
    assert gate.columns.total() == (0, 0)


async def test_what_another_process_admits_counts_here_and_what_it_gives_back_is_seen() -> None:
    here = Gate(max_requests=1)
    there = Gate(segment=here.segment, process_slot=1, max_requests=1)
    taken = there.ask()
    ticket = here.ask()
    assert not is_in(ticket)
    taken.release()
    await waits(ticket)
    assert here.columns.total()[0] == 1


async def test_a_newcomer_does_not_take_what_an_equal_or_more_important_one_waits_for() -> None:
    gate = Gate(max_tokens=100)
    gate.ask(prompt_tokens=40)
    waiting = gate.ask(prompt_tokens=60)
    newcomer = gate.ask()
    assert not is_in(newcomer)
    assert is_in(gate.ask(priority="high"))
    assert not is_in(waiting)


async def test_a_place_that_another_process_gave_back_goes_to_whoever_waits_and_not_to_a_newcomer() -> None:
    here = Gate(SMALL, max_requests=2)
    there = Gate(SMALL, segment=here.segment, process_slot=1, max_requests=2)
    taken = there.ask("small")
    first = here.ask("small")
    there.ask()
    taken.release()
    newcomer = here.ask()
    assert (is_in(first), is_in(newcomer)) == (True, False)


async def test_one_who_needs_little_does_not_overtake_one_who_needs_much() -> None:
    gate = Gate(max_tokens=100)
    large = gate.ask(prompt_tokens=80)
    little = [gate.ask(prompt_tokens=40), gate.ask()]
    assert [is_in(ticket) for ticket in little] == [False, False]
    large.release()
    assert [is_in(ticket) for ticket in little] == [True, True]


async def test_a_full_model_keeps_nobody_of_another_waiting() -> None:
    gate = Gate(SMALL, FREE, max_requests=10, max_queued=2)
    current = gate.ask("small")
    waiting = [gate.ask("small"), gate.ask("small")]
    others = [gate.ask("free"), gate.ask(), gate.ask("free", priority="low")]
    assert all(map(is_in, others))
    assert not any(map(is_in, waiting))
    current.release()
    assert [is_in(ticket) for ticket in waiting] == [True, False]


async def test_in_the_queue_a_full_model_keeps_nobody_of_another_waiting() -> None:
    gate = Gate(SMALL, FREE, max_requests=2)
    gate.ask("small")
    last = gate.ask("free")
    waiting = [gate.ask("small"), gate.ask("free")]
    last.release()
    assert [is_in(ticket) for ticket in waiting] == [False, True]


async def test_limits_that_change_hold_for_those_who_wait_too() -> None:
    gate = Gate(SMALL)
    gate.ask("small")
    ticket, other = gate.ask("small"), gate.ask("small")
    gate.models = (ModelSpec(name="small", max_requests=2), FREE)
    await waits(ticket)
    assert not is_in(other)
    gate.models = (FREE,)
    await waits(other)


async def waits(ticket: Ticket) -> None:
    """Wait as a request does."""
    assert ticket.granted is not None
    await ticket.granted
