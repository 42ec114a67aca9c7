"""Our ``loop`` against jinja's."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Undefined
from jinja2.runtime import LoopContext

from extproc.prompt.list_loop import LOOP_COUNTERS, ListLoop, loop_over

ITEMS = ["a", None, {"b": 1}]


def told(loop: LoopContext) -> list[Any]:
    counters = [getattr(loop, name) for name in sorted(LOOP_COUNTERS - {"cycle", "changed"})]
    neighbours = [str(loop.previtem), str(loop.nextitem)]
    return [*counters, *neighbours, loop.cycle(1, 2), loop.changed(str(loop.previtem)), len(loop), repr(loop)]


@given(st.lists(st.integers(0, 2), max_size=4), st.integers(0, 3))
def test_it_tells_what_jinjas_tells(items: list[int], depth: int) -> None:
    ours, theirs = (kind(items, Undefined, None, depth) for kind in (ListLoop, LoopContext))
    assert [(item, told(loop)) for item, loop in ours] == [(item, told(loop)) for item, loop in theirs]


@given(st.lists(st.integers(), max_size=6), st.lists(st.booleans(), max_size=6))
def test_items_taken_inside_the_loop_are_gone(items: list[int], takes: list[bool]) -> None:
    seen: list[list[Any]] = []
    for kind in (ListLoop, LoopContext):
        loop = kind(items, Undefined)
        order: list[Any] = []
        for item, same in loop:
            order.append((item, same.index0, same.last))
            if takes and takes[len(order) % len(takes)]:
                order.append(next(loop, (None, None))[0])
        seen.append(order)
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    ("iterable", "kind"),
    [(ITEMS, ListLoop), ([], ListLoop), (tuple(ITEMS), LoopContext), ("abc", LoopContext), ({}, LoopContext)],
)
def test_only_lists_are_looped_over_by_position(iterable: Any, kind: type) -> None:  # noqa: ANN401
    assert type(loop_over(iterable, Undefined)) is kind


def test_a_recursive_loop_calls_itself() -> None:
    loop = loop_over(ITEMS, Undefined, lambda items, _, depth: f"{items}{depth}", 1)
    assert loop([1]) == "[1]2"
    with pytest.raises(TypeError, match="recursive"):
        loop_over(ITEMS, Undefined)([1])
