"""What happened to the requests, so that a test can ask the worker instead of guessing."""

import asyncio
import collections
import contextlib
import hashlib
import time
from collections.abc import Iterable, Iterator
from typing import Any

MAX_PATHS = 64
_OTHER_PATHS = "(other)"
_CREDENTIALS = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key", "api-key"})


class Entry:
    """One request, ``arrived`` on the monotonic clock. ``status`` is 0 until it is answered."""

    def __init__(self, *, method: str, path: str, headers: Iterable[tuple[str, str]]) -> None:
        self.arrived = time.monotonic()
        self.method = method
        self.path = path
        self._headers = headers
        self.body_sha256 = ""
        self.body_bytes = 0
        self.status = 0

    def saw_body(self, body: bytes) -> None:
        """Remember the body's length and digest, never the body."""
        self.body_bytes = len(body)
        self.body_sha256 = hashlib.sha256(body).hexdigest()

    def shown_headers(self) -> list[tuple[str, str]]:
        """Names in lower case, in the order they came, repeated ones too; credentials without their value."""
        return [(name.lower(), "(hidden)" if name.lower() in _CREDENTIALS else value) for name, value in self._headers]

    def shown(self) -> dict[str, Any]:
        """What arrived, as JSON."""
        return {
            "method": self.method,
            "path": self.path,
            "headers": self.shown_headers(),
            "body_sha256": self.body_sha256,
            "body_bytes": self.body_bytes,
        }


class Ledger:
    """Counts of all requests but the operational ones, and the last ``remember`` of them."""

    def __init__(self, *, remember: int) -> None:
        self._last: collections.deque[Entry] = collections.deque(maxlen=remember)
        self._by_path: collections.Counter[str] = collections.Counter()
        self._by_status: collections.Counter[int] = collections.Counter()
        self._idle = asyncio.Event()
        self._idle.set()
        self._max_in_flight = 0
        self._aborted = 0
        self._reset = 0
        self.in_flight = 0

    @contextlib.contextmanager
    def enter(self, entry: Entry, *, path: str) -> Iterator[None]:
        """Account for one request: answered if its ``status`` was set, else given up by the client."""
        known = path in self._by_path or len(self._by_path) < MAX_PATHS
        self._by_path[path if known else _OTHER_PATHS] += 1
        self._last.append(entry)
        self.in_flight += 1
        self._max_in_flight = max(self._max_in_flight, self.in_flight)
        self._idle.clear()
        try:
            yield
        except BaseException:
            self._aborted += 1
            raise
        else:
            if entry.status:
                self._by_status[entry.status] += 1
            else:
                self._reset += 1
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._idle.set()

    async def idle(self) -> None:
        """Wait until nothing is in flight."""
        await self._idle.wait()

    def clear(self) -> None:
        """Forget everything but what is in flight."""
        self._last.clear()
        self._by_path.clear()
        self._by_status.clear()
        self._max_in_flight = self.in_flight
        self._aborted = 0
        self._reset = 0

    def shown(self) -> dict[str, Any]:
        """The ledger as JSON, the newest request last."""
        return {
            "served": self._by_status.total(),
            "in_flight": self.in_flight,
            "max_in_flight": self._max_in_flight,
            "aborted": self._aborted,
            "reset": self._reset,
            "by_path": dict(self._by_path),
            "by_status": {str(status): count for status, count in self._by_status.items()},
            "last": [entry.shown() | {"status": entry.status} for entry in self._last],
        }
