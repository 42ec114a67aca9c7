"""Signals as a queue: a handler that runs between any two instructions does nothing but put a number there."""

import select
import signal
import socket
from collections.abc import Iterable
from types import FrameType, TracebackType
from typing import Any, Self

_READ_BYTES = 4096


class SignalQueue:
    """Takes the given signals over while it is open. Main thread only, as Python demands.

    Signals that arrive faster than they are read are merged, as the kernel does itself.
    """

    def __init__(self, numbers: Iterable[signal.Signals]) -> None:
        self._numbers = tuple(numbers)
        self._handlers: dict[signal.Signals, Any] = {}
        self._reader, self._writer = socket.socketpair()
        self._reader.settimeout(0)
        self._writer.settimeout(0)
        self._poll = select.poll()
        self._poll.register(self._reader, select.POLLIN)

    def __enter__(self) -> Self:
        """Take the signals over."""
        self._wakeup_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in self._numbers:
            self._handlers[number] = signal.signal(number, _leave_it_to_the_queue)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give them back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_fd)
        self._reader.close()
        self._writer.close()

    def wait(self, timeout_secs: float) -> list[signal.Signals]:
        """Sleep until a signal comes or the time is over; return what came, oldest first."""
        self._poll.poll(timeout_secs * 1000)
        try:
            numbers = self._reader.recv(_READ_BYTES)
        except BlockingIOError:
            return []
        return [signal.Signals(number) for number in numbers]


def _leave_it_to_the_queue(_number: int, _frame: FrameType | None) -> None:
    """Python writes a signal to the wake-up descriptor only if it has a handler."""
