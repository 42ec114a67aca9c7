"""Misbehaviour on request: what a worker is told to do wrong, and what waits until it is told otherwise."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Literal

import msgspec

Mode = Literal["ok", "error", "hang", "refuse", "reset"]
MAX_FAIL_NEXT = 1_000_000


class Behaviour(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a worker behaves; the body of ``POST /sim/behaviour``. Fields left out take their defaults: ``{}`` is normal.

    ``mode`` and ``fail_next`` concern every path but the operational ones (``/health``, ``/metrics``, ``/sim/...``).
    """

    mode: Mode = "ok"
    error_status: Annotated[int, msgspec.Meta(ge=500, le=599)] = 500
    fail_next: Annotated[int, msgspec.Meta(ge=0, le=MAX_FAIL_NEXT)] = 0
    unhealthy: bool = False
    stall_after_tokens: Annotated[int, msgspec.Meta(ge=-1)] = -1


class Faults:
    """The present behaviour and everything that waits for it to change."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._changed = asyncio.Event()

    @property
    def behaviour(self) -> Behaviour:
        """The present behaviour; ``fail_next`` counts down."""
        return self._behaviour

    def change(self, behaviour: Behaviour) -> None:
        """Behave differently from here on; what hangs or stalls looks again."""
        self._behaviour = behaviour
        self._changed.set()
        self._changed = asyncio.Event()

    def take_failure(self) -> int | None:
        """The status this request has to fail with, or None; uses up one of ``fail_next``."""
        behaviour = self._behaviour
        if behaviour.mode == "error":
            return behaviour.error_status
        if behaviour.fail_next:
            self._behaviour = msgspec.structs.replace(behaviour, fail_next=behaviour.fail_next - 1)
            return behaviour.error_status
        return None

    def stalls_at(self, token: int) -> bool:
        """Whether token number ``token``, counted from 1, is held back."""
        limit = self._behaviour.stall_after_tokens
        return 0 <= limit < token

    async def wait_while(self, condition: Callable[[], bool]) -> None:
        """Wait until the behaviour has changed so that ``condition`` is false."""
        while condition():
            await self._changed.wait()
