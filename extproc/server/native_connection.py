"""One connection of the native transport.

HTTP/2 is libnghttp2's (through ``ngh2``, which does no I/O); this protocol moves bytes between it and the socket, hands
events to streams, and keeps a peer from costing more than it may. One read causes one write: replies that handlers give
while the read is handled leave together at its end, later ones at the end of the loop's turn.
"""

import asyncio
import contextlib
import logging
from typing import cast

from ngh2 import (
    Connection,
    ConnectionClosed,
    DataReceived,
    DenialOfServiceError,
    ErrorCode,
    Event,
    NGH2Error,
    PingAcknowledged,
    PingReceived,
    RequestReceived,
    Role,
    SettingsReceived,
    StreamClosed,
    StreamReset,
    TrailersReceived,
)

from extproc.config.server import MIB
from extproc.server.base import CloseReason
from extproc.server.flood import FloodGuard
from extproc.server.grpc_framing import Status
from extproc.server.native_stream import NativeStream
from extproc.server.native_traffic import CONNECTION_WINDOW_BYTES, NativeTraffic
from extproc.server.peer_watch import PeerWatch

logger = logging.getLogger(__name__)

_KEEPALIVE_PING = b"alive?\0\0"
_RETIRE_PING = b"retiring"
_WRITE_BUFFER_BYTES = MIB
_CLOSE_SECS = 1.0
"""How long the last bytes to a peer may take before the socket is cut."""


class NativeConnection(asyncio.Protocol):
    """One HTTP/2 connection, from its first byte to its last.

    ``deadline`` is the loop's time by which the HTTP/2 preface and the first SETTINGS must have come.

    A connection is retired without loss: GOAWAY with the largest stream id and a PING; what the peer sent before it
    read them is served; the PING's answer proves that nothing of that is still under way; when the last stream has
    ended the final GOAWAY and the end of the connection follow.
    """

    def __init__(self, traffic: NativeTraffic, *, shared: bool, deadline: float) -> None:
        settings = traffic.settings
        self.h2 = Connection(Role.SERVER, traffic.h2_configuration)
        self.max_message_bytes = settings.max_message_bytes
        self._traffic = traffic
        self._load = traffic.load if shared else None
        self._rotate_after = settings.rotate_after_streams if shared else 0
        self._opened = 0
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._streams: dict[int, NativeStream] = {}
        self._to_reset: list[int] = []
        self._reading = False
        self._flush_scheduled = False
        self._closing = False
        self._reported = False
        self._greeted = False
        self._retiring = False
        self._retire_ping_due = False
        self._peer_knows_retiring = False
        self._pings = FloodGuard(settings.max_pings)
        self._idle_resets = FloodGuard(settings.max_idle_resets)
        self._deadline = deadline
        self._watch: PeerWatch
        self._cut: asyncio.TimerHandle | None = None

    # From the socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the peer."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        traffic = self._traffic
        traffic.pending.discard(self)
        traffic.connections.add(self)
        self._watch = PeerWatch(
            settings=traffic.settings, deadline=self._deadline, ping=self._ask_peer, give_up=self._give_up
        )
        self.h2.initiate_connection(traffic.h2_settings)
        self.h2.set_local_window_size(CONNECTION_WINDOW_BYTES)
        if traffic.stopping:
            self.retire(CloseReason.DRAINED)
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Take what was read: everything that is to be done about it is done before this returns."""
        if self._closing:
            return
        self._watch.heard_at = self._loop.time()
        self._reading = True
        try:
            self.h2.receive_data(data)
            self._handle(self.h2.events())
        except DenialOfServiceError:
            self._close(CloseReason.RESOURCE_LIMIT)
        except NGH2Error:
            self._close(CloseReason.PROTOCOL_ERROR if self._greeted else CloseReason.GARBAGE)
        except Exception:
            logger.exception("A connection failed")
            self._close(CloseReason.INTERNAL, ErrorCode.INTERNAL_ERROR)
        self._reading = False
        self._flush()

    def pause_writing(self) -> None:
        """Stop reading from a peer that does not read, so that what it is owed stays bounded."""
        self._watch.blocked()
        if not self._closing:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        self._watch.unblocked()
        if not self._closing:
            self._transport.resume_reading()
            self.wake()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the signature of asyncio.Protocol
        """End what is left."""
        self._closing = True
        self._watch.stop()
        if self._cut is not None:
            self._cut.cancel()
        streams = tuple(self._streams.values())
        self._streams.clear()
        for stream in streams:
            self._stream_over(stream)
        self._traffic.connection_lost(self)

    # From the server and the streams

    def retire(self, reason: CloseReason) -> None:
        """Close the connection once nothing is lost by it; see the class."""
        if self._closing or self._retiring:
            return
        self._retiring = True
        self._report(reason)
        self._retire_ping_due = True
        with contextlib.suppress(NGH2Error):  # the library may have ended the connection, which is not written yet
            self.h2.send_shutdown_notice()
        self.wake()

    def drain(self) -> None:
        """Ask every handler to come to an end."""
        for stream in tuple(self._streams.values()):
            stream.drain()

    def abort(self, reason: CloseReason) -> None:
        """Cut the connection."""
        self._report(reason)
        self._closing = True
        self._transport.abort()

    def wake(self) -> None:
        """Write what is queued: at the end of the read that is being handled, else at the end of the loop's turn."""
        if not self._reading and not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def hold(self, delta: int) -> bool:
        """Account for bytes of a message half received; whether the limit of all connections still holds."""
        return self._traffic.hold(delta)

    def reset_once_written(self, stream_id: int) -> None:
        """Tell the peer to stop sending on a finished stream, after its trailers have gone out."""
        self._to_reset.append(stream_id)

    # Events

    def _handle(self, events: list[Event]) -> None:
        streams = self._streams
        for event in events:
            if isinstance(event, DataReceived):
                stream = streams.get(event.stream_id)
                if stream is not None:
                    if event.data:
                        stream.take(event.data)
                    if event.end_stream:
                        stream.half_close()
            elif isinstance(event, RequestReceived):
                self._open(event)
            elif isinstance(event, StreamClosed):
                self._stream_closed(event.stream_id)
            else:
                self._handle_rare(event)
            if self._closing:
                return

    def _handle_rare(self, event: Event) -> None:
        match event:
            case StreamReset():
                self._count_reset(event.stream_id)
            case PingReceived():
                self._count_ping()
            case SettingsReceived():
                if self._greeted:
                    self._count_ping()
                else:
                    self._greeted = True
                    self._watch.greeted()
            case TrailersReceived():
                stream = self._streams.get(event.stream_id)
                if stream is not None:
                    stream.half_close()
            case PingAcknowledged():
                if event.opaque_data == _RETIRE_PING:
                    self._peer_knows_retiring = True
                    self._close_if_retired()
            case ConnectionClosed():
                self._closed_by_protocol(event)
            case _:
                pass

    def _open(self, event: RequestReceived) -> None:
        traffic = self._traffic
        path = b""
        for name, value in event.headers:
            if name == b":path":
                path = value
                break
        process = path == traffic.process_path
        stream = self._streams[event.stream_id] = NativeStream(self, event.stream_id, process=process)
        if process:
            traffic.active_streams += 1
            if self._load is not None:
                self._load.stream_opened()
            self._opened += 1
        opener = traffic.openers.get(path)
        if opener is None:
            stream.finish(Status.UNIMPLEMENTED, "unknown method")
        else:
            stream.open(opener)
            if traffic.stopping:  # the peer has not read the GOAWAY yet
                stream.drain()
        if event.end_stream:
            stream.half_close()
        if process and self._opened == self._rotate_after:
            self.retire(CloseReason.ROTATED)

    def _stream_closed(self, stream_id: int) -> None:
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            self._stream_over(stream)
        if self._retiring:
            self._close_if_retired()

    def _stream_over(self, stream: NativeStream) -> None:
        stream.over()
        if stream.process:
            traffic = self._traffic
            traffic.active_streams -= 1
            if self._load is not None:
                self._load.stream_closed()
            if not traffic.active_streams:
                traffic.something_ended()

    def _count_reset(self, stream_id: int) -> None:
        """Count a stream that the peer cancels before it said anything; a reset may also follow a finished stream."""
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.heard and self._idle_resets.exceeded(self._watch.heard_at):
            self._close(CloseReason.RESET_FLOOD, ErrorCode.ENHANCE_YOUR_CALM)

    def _count_ping(self) -> None:
        if self._pings.exceeded(self._watch.heard_at):
            self._close(CloseReason.PING_FLOOD, ErrorCode.ENHANCE_YOUR_CALM)

    def _close_if_retired(self) -> None:
        if self._peer_knows_retiring and not self._streams:
            self._close(None)

    def _closed_by_protocol(self, event: ConnectionClosed) -> None:
        """The library has ended the connection: for a fault of the peer, or after the peer's own GOAWAY."""
        if not event.error_code:
            self._close(None)
        elif event.error_code == ErrorCode.ENHANCE_YOUR_CALM:
            self._close(CloseReason.RESOURCE_LIMIT)
        else:
            self._close(CloseReason.PROTOCOL_ERROR if self._greeted else CloseReason.GARBAGE)

    # Output

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self._closing or self._watch.blocked_since is not None:
            return
        h2 = self.h2
        output = h2.data_to_send()
        if self._to_reset or self._retire_ping_due:
            output += self._output_after_that()
        if output:
            self._transport.write(output)
        events = h2.events()
        if events:
            self._handle(events)
        if h2.queued_body_size() > self.max_message_bytes:
            self._reset_unread()

    def _output_after_that(self) -> bytes:
        """Return what the library would let overtake what it follows.

        The PING of a retirement follows its GOAWAY. Resets of finished streams whose peer still sends follow the
        trailers; they wait when those wait for the peer's window.
        """
        h2 = self.h2
        finished, self._to_reset = self._to_reset, []
        try:
            if self._retire_ping_due:
                self._retire_ping_due = False
                h2.ping(_RETIRE_PING)
            for stream_id in finished:
                if h2.queued_body_size(stream_id):
                    self._to_reset.append(stream_id)
                else:
                    h2.reset_stream(stream_id, ErrorCode.NO_ERROR)
            return h2.data_to_send()
        except NGH2Error:
            return b""  # the library has ended the connection; the event is next

    def _reset_unread(self) -> None:
        """Reset streams whose peer takes so little of the replies that more than one longest message waits."""
        with contextlib.suppress(NGH2Error):  # the library may have ended the connection
            for stream_id in self._streams:
                if self.h2.queued_body_size(stream_id) > self.max_message_bytes:
                    self.h2.reset_stream(stream_id, ErrorCode.ENHANCE_YOUR_CALM)
                    self.wake()

    # The end

    def _close(self, reason: CloseReason | None, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        """Say goodbye and close; ``reason`` is None when the peer wanted it or it is reported."""
        if self._closing:
            return
        if reason is not None:
            self._report(reason)
        self._closing = True
        self._watch.stop()
        # The library refuses when it has ended the connection itself: its own GOAWAY is queued then, or there is
        # nothing to answer to what came.
        with contextlib.suppress(NGH2Error):
            self.h2.terminate_connection(code)
        with contextlib.suppress(NGH2Error):
            self._transport.write(self.h2.data_to_send())
        self._transport.close()
        self._cut = self._loop.call_later(_CLOSE_SECS, self._transport.abort)

    def _give_up(self, reason: CloseReason) -> None:
        if reason is CloseReason.NOT_READING:
            self.abort(reason)
        else:
            self._close(reason)

    def _ask_peer(self) -> None:
        self.h2.ping(_KEEPALIVE_PING)
        self.wake()

    def _report(self, reason: CloseReason) -> None:
        if not self._reported:
            self._reported = True
            self._traffic.report_closed(reason)
