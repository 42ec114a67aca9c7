"""``loop`` of chat templates for lists, where all that it tells follows from a position."""

from collections.abc import Iterator
from itertools import repeat
from operator import length_hint
from typing import Any

from jinja2 import Undefined
from jinja2.runtime import LoopContext
from jinja2.utils import missing

LOOP_COUNTERS = frozenset(
    ("index", "index0", "revindex", "revindex0", "first", "last", "length", "depth", "depth0", "cycle", "changed")
)


class ListLoop(LoopContext):
    """A loop over a list: the loop itself runs in C, and its position is worked out when it is asked for.

    The items are taken from one iterator, however often the loop is iterated over, as with jinja's own.
    """

    _iterable: list[Any]

    @property
    def index0(self) -> int:  # type: ignore[override]
        """How many items were before the current one."""
        return len(self._iterable) - length_hint(self._iterator) - 1

    @property
    def first(self) -> bool:
        """Whether this is the first item."""
        return self.index0 == 0

    @property
    def last(self) -> bool:
        """Whether this is the last item."""
        return not length_hint(self._iterator)

    @property
    def previtem(self) -> Any:  # noqa: ANN401
        """The item before the current one."""
        index = self.index0
        return self._iterable[index - 1] if index > 0 else self._undefined("there is no previous item")

    def _peek_next(self) -> Any:  # noqa: ANN401
        following = self.index0 + 1
        return self._iterable[following] if following < len(self._iterable) else missing

    def __iter__(self) -> Iterator[tuple[Any, LoopContext]]:  # type: ignore[override]
        return zip(self._iterator, repeat(self))

    def __next__(self) -> tuple[Any, LoopContext]:
        return next(self._iterator), self

    def __repr__(self) -> str:
        return f"<LoopContext {self.index}/{self.length}>"


def loop_over(iterable: Any, undefined: type[Undefined], recurse: Any = None, depth0: int = 0) -> LoopContext:  # noqa: ANN401
    """Make the ``loop`` of a ``for``; the arguments are those of jinja's ``LoopContext``."""
    kind = ListLoop if type(iterable) is list else LoopContext
    return kind(iterable, undefined, recurse, depth0)
