"""Any order of events at several routers: one trial at a time, and a worker that is well always comes back."""

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.fleet.breaker import DECISION_SECS, TURN_SECS
from extproc.shm.worker_table import Outcome
from tests.support.routers import MAX_OPEN_SECS, PROBE_SECS, SICK, Routers

ROUTERS = 3
STEP_SECS = 0.02
RECOVERY_SECS = MAX_OPEN_SECS + PROBE_SECS + (ROUTERS + 1) * TURN_SECS

ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.sampled_from((0.003, 0.013, 0.09, 0.1, 0.3, 1.0, 2.5, 6.0))),
        st.tuples(st.just("all look"), st.just(0)),
        st.tuples(st.sampled_from(("look", "send", "fail")), st.integers(0, ROUTERS - 1)),
        st.tuples(st.sampled_from(("succeeded", "failed", "given up", "lost")), st.integers(0, 5)),
    ),
    max_size=80,
)


@dataclasses.dataclass
class Request:
    """One that went to the worker that breaks. ``opening`` is the opening of the breaker that it is a trial of."""

    router: int
    sent_at: float
    trial: float
    opening: float


class Story:
    """Routers that look, decide for a while, send, and hear of the outcome or not."""

    def __init__(self) -> None:
        self.routers = Routers(ROUTERS)
        self.deciding: dict[int, float] = {}
        self.under_way: list[Request] = []
        self.trials = 0

    @property
    def now(self) -> float:
        return self.routers.clock.now

    @property
    def opening(self) -> float:
        return self.routers.number(Outcome.OPEN_UNTIL)

    def do(self, action: str, argument: float) -> None:
        if action == "wait":
            self.wait(argument)
        elif action == "look":
            self.look(int(argument))
        elif action == "all look":
            for router in range(ROUTERS):
                self.look(router)
        elif action == "send":
            self.send(int(argument))
        elif action == "fail":
            self.routers.breakers[int(argument)].failed(SICK)
        elif self.under_way:
            self.hear(action, self.under_way.pop(int(argument) % len(self.under_way)))

    def wait(self, secs: float) -> None:
        until = self.now + secs
        # Nobody decides for longer than a decision takes.
        for router, looked_at in sorted(self.deciding.items(), key=lambda item: item[1]):
            if looked_at + DECISION_SECS <= until:
                self.routers.clock.now = max(self.now, looked_at + DECISION_SECS - 0.0001)
                self.send(router)
        self.routers.clock.now = until

    def look(self, router: int) -> None:
        if router not in self.deciding and self.routers.sees(router):
            self.deciding[router] = self.now

    def send(self, router: int) -> None:
        if self.deciding.pop(router, None) is None:
            return
        opening = self.opening
        trial = self.routers.breakers[router].try_out(SICK)
        if 0 < opening <= self.now:
            assert trial
            self.trials += 1
            assert not [
                request
                for request in self.under_way
                if request.opening == opening and self.now - request.sent_at < PROBE_SECS
            ]
        self.under_way.append(Request(router, self.now, trial, opening if trial else 0.0))

    def hear(self, outcome: str, request: Request) -> None:
        breakers = self.routers.breakers[request.router]
        if outcome == "succeeded":
            breakers.succeeded(SICK)
        elif outcome == "failed":
            breakers.failed(SICK)
        elif outcome == "given up":
            breakers.give_up(SICK, request.trial)

    def recovery_secs(self) -> float:
        """Return how long the worker stays out when it answers well from here on."""
        well_since = self.now
        while self.routers.is_open and self.now - well_since < 2 * RECOVERY_SECS:
            for router in self.routers.seen_by():
                self.routers.breakers[router].try_out(SICK)
                self.routers.breakers[router].succeeded(SICK)
            self.routers.clock.advance(STEP_SECS)
        return self.now - well_since


@settings(deadline=None, max_examples=400)
@given(st.booleans(), ACTIONS)
def test_one_trial_at_a_time_and_a_worker_that_is_well_always_comes_back(
    is_open: bool, actions: list[tuple[str, float]]
) -> None:
    story = Story()
    opening = [("fail", 0), ("fail", 1), ("fail", 2), ("wait", 1.0)] if is_open else []
    for action, argument in (*opening, *actions):
        story.do(action, argument)
        assert 0 <= story.opening <= story.now + MAX_OPEN_SECS
    assert story.recovery_secs() <= RECOVERY_SECS + STEP_SECS
    assert story.routers.seen_by() == list(range(ROUTERS))
    assert not any(story.routers.number(number) for number in (Outcome.OPENED, Outcome.PROBED_AT))


def test_the_stories_reach_trials() -> None:
    """What the property above says is said of something."""
    story = Story()
    for router in (0, 1, 2):
        story.do("fail", router)
    story.do("wait", 1.0)
    for _ in range(8):
        for router in range(ROUTERS):
            story.do("look", router)
        story.do("wait", 0.09)
    assert story.trials == 1
