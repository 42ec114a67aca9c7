"""What the connections of one native server share."""

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ngh2 import Configuration, Setting

from extproc.config.server import MIB, ServerSettings
from extproc.server.base import CloseReason, LoadGate, OpenStream
from extproc.server.methods import PROCESS

if TYPE_CHECKING:
    from extproc.server.native_connection import NativeConnection

STREAM_WINDOW_BYTES = 8 * MIB
"""A large request body comes in one go, without waiting for window updates."""
CONNECTION_WINDOW_BYTES = 64 * MIB
MAX_HEADER_LIST_BYTES = 64 * 1024
_UNLIMITED_RATE = (1 << 40, 1 << 40)


class NativeTraffic:
    """Everything that is open on one server, and the limits that hold for it."""

    def __init__(
        self,
        *,
        settings: ServerSettings,
        methods: Mapping[str, OpenStream],
        on_connection_closed: Callable[[str], None],
        load: LoadGate | None,
    ) -> None:
        self.settings = settings
        self.load = load
        self.openers = {path.encode(): opener for path, opener in methods.items()}
        self.process_path = PROCESS.encode()
        self.pending: set[NativeConnection] = set()
        """Accepted, but without TLS yet; no more is known of them."""
        self.connections: set[NativeConnection] = set()
        self.active_streams = 0
        self.stopping = False
        self._held_bytes = 0
        self._on_connection_closed = on_connection_closed
        self._changed: asyncio.Event | None = None
        self.h2_settings = {
            Setting.MAX_CONCURRENT_STREAMS: settings.max_streams_per_connection,
            Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW_BYTES,
            Setting.MAX_HEADER_LIST_SIZE: MAX_HEADER_LIST_BYTES,
        }
        # Envoy resets finished streams as a matter of course, so the library may not count them; NativeConnection
        # counts those that matter.
        self.h2_configuration = Configuration(
            stream_reset_rate_limit=_UNLIMITED_RATE, max_inbound_header_list_size=MAX_HEADER_LIST_BYTES
        )

    def report_closed(self, reason: CloseReason) -> None:
        """Tell the caller of the server that this side closed a connection."""
        self._on_connection_closed(reason)

    def hold(self, delta: int) -> bool:
        """Account for bytes of messages half received; whether the limit still holds."""
        self._held_bytes += delta
        return delta <= 0 or self._held_bytes <= self.settings.max_held_bytes

    @property
    def empty(self) -> bool:
        """Whether nobody is connected."""
        return not self.connections and not self.pending

    @property
    def full(self) -> bool:
        """Whether there is no room for one more connection."""
        return len(self.connections) + len(self.pending) >= self.settings.max_connections

    def connection_lost(self, connection: "NativeConnection") -> None:
        """Forget a connection."""
        self.pending.discard(connection)
        self.connections.discard(connection)
        self.something_ended()

    def something_ended(self) -> None:
        """Let :meth:`wait_until` look again."""
        if self._changed is not None:
            self._changed.set()

    async def wait_until(self, condition: Callable[[], bool], *, timeout_secs: float) -> bool:
        """Wait for a condition on what is open; whether it came true in time."""
        changed = self._changed = asyncio.Event()
        try:
            async with asyncio.timeout(timeout_secs):
                while not condition():
                    await changed.wait()
                    changed.clear()
        except TimeoutError:
            return False
        finally:
            self._changed = None
        return True
