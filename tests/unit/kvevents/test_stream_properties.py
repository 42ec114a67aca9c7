"""A stream that loses, doubles and reorders, from a publisher that restarts, ends up whole."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from extproc.kvevents.stream import Position, Problem
from tests.support.event_channel import ACTIONS, Engine, World


class Kept:
    """Remembers what was delivered since the last reset."""

    def __init__(self) -> None:
        self.complete: bool | None = None
        self.payloads: list[bytes] = []
        self.problems: list[Problem] = []

    def batches(self, payloads: Sequence[bytes]) -> None:
        assert payloads
        self.payloads += payloads

    def reset(self, *, complete: bool) -> None:
        self.complete = complete
        self.payloads = []

    def problem(self, problem: Problem, detail: str) -> None:
        self.problems.append(problem)


class Bench(World):
    """An engine, a stream and what it delivers."""

    def __init__(self, *, seed: int, buffer: int) -> None:
        self.kept = Kept()
        super().__init__(Engine(buffer), self.kept, seed=seed)


@given(st.lists(st.sampled_from(ACTIONS), max_size=60), st.integers(0, 1 << 30), st.sampled_from((3, 8, 1000)))
def test_after_all_trouble_what_was_delivered_is_the_stream_of_the_present_incarnation(
    actions: list[str], seed: int, buffer: int
) -> None:
    world = Bench(seed=seed, buffer=buffer)
    world.stream.start(None, world.now)
    for action in actions:
        world.step(action)
    world.settle()

    assert world.stream.synced
    check(world)


@given(st.integers(0, 20), st.integers(0, 20), st.booleans(), st.integers(0, 1 << 30))
def test_a_stream_goes_on_from_a_remembered_position_or_notices_that_it_cannot(
    before: int, after: int, restarted: bool, seed: int
) -> None:
    world = Bench(seed=seed, buffer=8)
    world.stream.start(None, world.now)
    for _ in range(before):
        world.step("publish")
    world.settle()
    position = world.stream.position
    assert isinstance(position, Position)

    second = Bench(seed=seed + 1, buffer=8)
    second.engine = world.engine
    second.kept.payloads, second.kept.complete = list(world.kept.payloads), world.kept.complete
    if restarted:
        second.engine.restart()
    for _ in range(after):
        second.engine.publish()
    second.stream.start(position, 0.0)
    second.settle()

    check(second)


def check(world: Bench) -> None:
    whole, delivered = world.engine.all, world.kept.payloads
    if world.kept.complete:
        assert delivered == whole
    else:
        assert delivered
        assert delivered == whole[-len(delivered) :]
