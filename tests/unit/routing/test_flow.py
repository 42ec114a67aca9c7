"""A flow behaves as a task of the same steps would, and costs no task when it need not wait."""

import asyncio
import dataclasses
import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.routing.flow import Flow, run_flow
from tests.support.loops import ClockedLoop

Futures = Sequence["asyncio.Future[int]"]


class StepError(Exception):
    pass


class EndError(Exception):
    pass


def adding(futures: Futures, *, goes_on: bool, raises: bool, seen: list[object]) -> Flow[int]:
    """Wait for every future in turn, and return the sum or raise; ``goes_on`` after one that failed."""
    total = 0
    try:
        for future in futures:
            try:
                value = yield future
            except StepError as error:
                seen.append(type(error))
                if not goes_on:
                    raise
            else:
                seen.append(value)
                total += value
    finally:
        seen.append("end")
    if raises:
        raise EndError
    return total


async def adding_in_a_task(futures: Futures, *, goes_on: bool, raises: bool, seen: list[object]) -> int:
    """The same as a coroutine."""
    flow = adding(futures, goes_on=goes_on, raises=raises, seen=seen)
    try:
        future = next(flow)
        while True:
            try:
                value = await future
            except (StepError, asyncio.CancelledError) as error:
                future = flow.throw(error)
            else:
                future = flow.send(value)
    except StopIteration as done:
        result: int = done.value
        return result


@pytest.fixture
def loop() -> Iterator[ClockedLoop]:
    loop = ClockedLoop()
    yield loop
    # What nobody asked for is complained of when it is collected.
    gc.collect()
    loop.settle(lambda: None)
    loop.close()


def test_a_flow_that_does_not_wait_is_done_at_once_without_a_loop() -> None:
    seen: list[object] = []
    assert run_flow(adding([], goes_on=False, raises=False, seen=seen)) == 0
    with pytest.raises(EndError):
        run_flow(adding([], goes_on=False, raises=True, seen=seen))
    assert seen == ["end", "end"]


def test_a_flow_within_a_flow_is_one_flow(loop: ClockedLoop) -> None:
    def outer(first: "asyncio.Future[int]", second: "asyncio.Future[int]") -> Flow[int]:
        inner = yield from adding([first, second], goes_on=False, raises=False, seen=[])
        return inner * 10

    first, second = loop.create_future(), loop.create_future()
    outcome = loop.settle(lambda: run_flow(outer(first, second)))
    assert isinstance(outcome, asyncio.Future)
    loop.settle(lambda: first.set_result(1))
    assert not outcome.done()
    loop.settle(lambda: second.set_result(2))
    assert outcome.result() == 30


def test_the_future_that_a_flow_waits_for_is_cancelled_with_it(loop: ClockedLoop) -> None:
    future: asyncio.Future[int] = loop.create_future()
    seen: list[object] = []
    outcome = loop.settle(lambda: run_flow(adding([future], goes_on=False, raises=False, seen=seen)))
    assert isinstance(outcome, asyncio.Future)
    loop.settle(outcome.cancel)
    assert (future.cancelled(), seen) == (True, ["end"])


def test_a_flow_that_goes_on_after_it_was_cancelled_has_nothing_to_wait_for(loop: ClockedLoop) -> None:
    futures: list[asyncio.Future[int]] = [loop.create_future() for _ in range(3)]
    given_back: list[int] = []

    def stubborn() -> Flow[None]:
        for place, future in enumerate(futures):
            try:
                yield future
            except asyncio.CancelledError:
                given_back.append(place)

    outcome = loop.settle(lambda: run_flow(stubborn()))
    assert isinstance(outcome, asyncio.Future)
    loop.settle(lambda: futures[0].set_result(1))
    loop.settle(outcome.cancel)
    assert given_back == [1, 2]
    assert outcome.cancelled()


def test_whoever_was_granted_something_is_told_when_it_is_too_late(loop: ClockedLoop) -> None:
    """A result that comes in the moment of the cancellation is not lost on the way: the flow gives it back."""
    future: asyncio.Future[int] = loop.create_future()
    seen: list[object] = []

    def both() -> "asyncio.Future[int]":
        outcome = run_flow(adding([future], goes_on=False, raises=False, seen=seen))
        assert isinstance(outcome, asyncio.Future)
        future.set_result(1)
        outcome.cancel()
        return outcome

    outcome = loop.settle(both)
    assert (outcome.cancelled(), seen) == (True, ["end"])


@dataclasses.dataclass(frozen=True)
class Script:
    """What becomes of each future, and after how many of them, and when, the whole is cancelled."""

    ends: tuple[str, ...]
    goes_on: bool
    raises: bool
    cancelled_at: int
    with_the_end: bool


scripts = st.builds(
    Script,
    ends=st.lists(st.sampled_from(["value", "error", "cancel", "done before"]), max_size=5).map(tuple),
    goes_on=st.booleans(),
    raises=st.booleans(),
    cancelled_at=st.integers(0, 6),
    with_the_end=st.booleans(),
)


@given(scripts)
def test_a_flow_ends_as_a_task_of_the_same_steps_does(script: Script) -> None:
    def as_flow(futures: Futures, seen: list[object]) -> "int | asyncio.Future[int]":
        return run_flow(adding(futures, goes_on=script.goes_on, raises=script.raises, seen=seen))

    def as_task(futures: Futures, seen: list[object]) -> "asyncio.Future[int]":
        steps = adding_in_a_task(futures, goes_on=script.goes_on, raises=script.raises, seen=seen)
        return asyncio.get_running_loop().create_task(steps)

    assert played(script, as_flow) == played(script, as_task)


def played(
    script: Script, start: Callable[[Futures, list[object]], "int | asyncio.Future[int]"]
) -> tuple[object, list[object]]:
    """Play a script; return how it ended and what the steps saw."""
    loop = ClockedLoop()
    seen: list[object] = []
    try:
        futures: list[asyncio.Future[int]] = [loop.create_future() for _ in script.ends]
        for place, end in enumerate(script.ends):
            if end == "done before":
                futures[place].set_result(place)
        try:
            outcome = loop.settle(lambda: start(futures, seen))
        except EndError as error:
            return type(error), seen
        if not isinstance(outcome, asyncio.Future):
            return outcome, seen
        for place, end in enumerate(script.ends):
            loop.settle(lambda place=place, end=end: step(script, place, futures[place], end, outcome))  # type: ignore[misc]
        loop.settle(outcome.cancel)
        return how(outcome), seen
    finally:
        gc.collect(0)
        loop.settle(lambda: None)
        loop.close()


def step(script: Script, place: int, future: "asyncio.Future[int]", end: str, outcome: "asyncio.Future[int]") -> None:
    cancels = place == script.cancelled_at
    if cancels and not script.with_the_end:
        outcome.cancel()
        return
    if not future.done():
        if end == "value":
            future.set_result(place)
        elif end == "error":
            future.set_exception(StepError())
            # Whether anybody waits for it depends on what came before.
            future.exception()
        elif end == "cancel":
            future.cancel()
    if cancels:
        outcome.cancel()


def how(outcome: "asyncio.Future[int]") -> object:
    if outcome.cancelled():
        return "cancelled"
    error = outcome.exception()
    return outcome.result() if error is None else type(error)


def test_an_exception_that_comes_after_the_end_is_asked_for(loop: ClockedLoop) -> None:
    """Asyncio logs exceptions that nobody asked for, with their words, which may quote a prompt."""

    class Stubborn(asyncio.Future[int]):
        def cancel(self, msg: Any = None) -> bool:  # noqa: ANN401 - as its base has it
            return False

    future = Stubborn(loop=loop)
    outcome = loop.settle(lambda: run_flow(adding([future], goes_on=False, raises=False, seen=[])))
    assert isinstance(outcome, asyncio.Future)
    loop.settle(outcome.cancel)
    loop.settle(lambda: future.set_exception(StepError()))
