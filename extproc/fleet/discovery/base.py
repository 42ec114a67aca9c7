"""What a source of workers promises to its one consumer."""

from collections.abc import Callable
from typing import NoReturn, Protocol

from extproc.config.fleet import WorkerSpec

WorkerList = tuple[WorkerSpec, ...]


class Source(Protocol):
    """Tells which workers there shall be.

    The contract, for every source:

    * It enumerates everything first, then reports changes. Each report is the *full* list, never a difference, so a
      lost or merged report costs nothing and the consumer needs no history.
    * Reports come in order, from the event loop, from the one task that runs ``watch``. There is one consumer.
    * A list is checked: ids and addresses are unique and usable.
    * What it cannot read it does not report. It logs and counts the fault and stays silent, and the consumer keeps the
      list it has: a broken source never empties a fleet.
    """

    async def watch(self, on_list: Callable[[WorkerList], None]) -> NoReturn:
        """Call ``on_list`` with the full list, at once and after each change, until cancelled."""
