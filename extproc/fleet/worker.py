"""The record of one worker, and of the whole fleet."""

from typing import Literal, NamedTuple

import msgspec

from extproc.config.models import ModelSpec
from extproc.fleet.load.engine_load import LoraState

WorkerState = Literal["active", "draining"]


class WorkerKey(NamedTuple):
    """Who a worker is: another address under the same id is another worker, and so is another number of ranks.

    ``rank`` is which of the ``ranks`` of the server at ``address`` it is.
    """

    id: str
    address: str
    rank: int = 0
    ranks: int = 1


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """One worker, as the observer last published it.

    ``slot`` is its place in the shared tables and stays with it for as long as it is known. ``models`` is empty when it
    serves any model. ``draining`` workers finish what they have and get nothing new. ``lora`` is what its engine says
    of its adapters, None when it says nothing.

    A server with data parallel ranks is as many workers at one address: ``rank`` is which of its ``ranks`` this one is.
    The ``kv_events_`` fields are as in :class:`~extproc.config.fleet.WorkerSpec`.
    """

    id: str
    address: str
    slot: int
    models: tuple[str, ...] = ()
    state: WorkerState = "active"
    healthy: bool = True
    lora: LoraState | None = None
    rank: int = 0
    ranks: int = 1
    kv_events_endpoint: str = ""
    kv_events_replay_endpoint: str = ""
    kv_events_topic: str = ""

    @property
    def eligible(self) -> bool:
        """Whether a new request may go there at all."""
        return self.healthy and self.state == "active"

    @property
    def key(self) -> WorkerKey:
        """Its identity."""
        return WorkerKey(self.id, self.address, self.rank, self.ranks)

    @property
    def sent_rank(self) -> int | None:
        """The rank that a request has to name to get there; None for a server without ranks to choose from."""
        return self.rank if self.ranks > 1 else None


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the observer publishes, as one document: the workers, and the models that are configured."""

    workers: tuple[Worker, ...]
    models: tuple[ModelSpec, ...] = ()
