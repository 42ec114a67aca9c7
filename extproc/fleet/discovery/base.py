"""What a source of workers and models promises to its one consumer."""

from collections.abc import Callable
from typing import NoReturn, Protocol

from extproc.config.load import Lists


class Source(Protocol):
    """Tells which workers and models there shall be.

    The contract, for every source:

    * It enumerates everything first, then reports changes. Each report is the *full* lists, never a difference, so a
      lost or merged report costs nothing and the consumer needs no history.
    * Reports come in order, from the event loop, from the one task that runs ``watch``. There is one consumer.
    * The lists are checked: ids, addresses and the names of models are unique, addresses usable.
    * What it cannot read it does not report. It logs and counts the fault and stays silent, and the consumer keeps the
      lists it has: a broken source never empties a fleet.
    """

    async def watch(self, on_lists: Callable[[Lists], None]) -> NoReturn:
        """Call ``on_lists`` with the full lists, at once and after each change, until cancelled."""
