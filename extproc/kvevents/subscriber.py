"""The ZMQ sockets on which engines publish: reads them on the event loop and hands everything to the streams.

A socket's descriptor tells of changes only, so whoever is woken reads until there is nothing, in slices that leave the
loop to others. Reading begins a moment after the first message, so that many cost one wakeup.

ZMQ connects again by itself, and tells so through a monitor. Behind a new connection there can be a new incarnation
whose next number happens to fit. So what came before is thrown away and the streams are checked by a replay.
"""

import asyncio
from collections.abc import Callable

import zmq

from extproc.config.kv_events import KvEventsSettings
from extproc.kvevents.decode import MAX_PAYLOAD_BYTES
from extproc.kvevents.endpoints import Place, events_place, replay_address
from extproc.kvevents.sources import EventSource
from extproc.kvevents.stream import Counts, EventStream, Position, Problem, Sink

GROUP_SECS = 0.002
"""How long messages are let gather before they are read."""
SLICE = 256
"""Messages that are read before others have their turn."""
TICK_SECS = 0.25
RECONNECT_MS = 100
RECONNECT_MAX_MS = 5_000

_SEQUENCE_BYTES = 8
_LIVE_FRAMES = 3
_REPLAY_FRAMES = 4
_END = -1

_Socket = zmq.Socket[bytes]
_Frames = list[bytes]


MAX_SOCKETS = 16_384
MAX_SLICE_BYTES = 1 << 20
"""After so many bytes others get their turn on the loop."""


class Subscriptions:
    """Follows publishers, all on the running loop; ``clock`` gives seconds. :meth:`close` ends them all."""

    def __init__(self, *, settings: KvEventsSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._context: zmq.Context[_Socket] = zmq.Context()
        # The messages, the connections and a replay of each; ZMQ's own limit is a thousand in all.
        self._context.set(zmq.MAX_SOCKETS, MAX_SOCKETS)
        self._bound: dict[str, _Inlet] = {}
        self._followers: set[Subscription] = set()
        self._timer: asyncio.TimerHandle | None = None

    def follow(self, source: EventSource, *, host: str, sink: Sink, position: Position | None = None) -> "Subscription":
        """Begin to follow a publisher on ``host``, after the batch at ``position`` if that is known.

        Whatever goes wrong is a problem that the sink is told, also during this call; the subscription then brings
        nothing and is to be closed like any other. A bound endpoint can have several followers with topics of their
        own.
        """
        subscription = Subscription(
            sink=sink,
            settings=self._settings,
            clock=self._clock,
            replay=self._replay(source, host, sink),
            topic=source.topic.encode(),
            leave=self._left,
        )
        self._followers.add(subscription)
        inlet = self._inlet(source, host, sink)
        if inlet is not None:
            subscription.begin(inlet, position)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK_SECS, self._tick)
        return subscription

    def close(self) -> None:
        """Close every subscription, and end ZMQ's threads."""
        for subscription in tuple(self._followers):
            subscription.close()
        if self._timer is not None:
            self._timer.cancel()
        self._context.destroy(linger=0)

    def _replay(self, source: EventSource, host: str, sink: Sink) -> "_Replay | None":
        if not source.replay_endpoint:
            return None
        try:
            address = replay_address(source.replay_endpoint, host=host)
        except ValueError as error:
            sink.problem(Problem.ENDPOINT, str(error))
            return None
        return _Replay(
            context=self._context,
            address=address,
            topic=source.topic.encode(),
            sink=sink,
            most=self._settings.max_pending_batches,
        )

    def _inlet(self, source: EventSource, host: str, sink: Sink) -> "_Inlet | None":
        """Return the socket for a source, or None when the sink was told why there is none."""
        try:
            place = events_place(source.endpoint, host=host)
            shared = self._bound.get(place.address) if place.bind else None
            if shared is None:
                inlet = _Inlet(context=self._context, place=place, most=self._settings.max_pending_batches)
                if place.bind:
                    self._bound[place.address] = inlet
                return inlet
        except (ValueError, OSError, zmq.ZMQError) as error:
            sink.problem(Problem.ENDPOINT, str(error))
            return None
        if not shared.distinguishes(source.topic.encode()):
            sink.problem(Problem.AMBIGUOUS, f"{source.endpoint}: topic {source.topic!r} is not told apart from others")
            return None
        return shared

    def _left(self, subscription: "Subscription", inlet: "_Inlet | None") -> None:
        self._followers.discard(subscription)
        if inlet is not None and inlet.unused:
            inlet.close()
            if self._bound.get(inlet.address) is inlet:
                del self._bound[inlet.address]

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(TICK_SECS, self._tick) if self._followers else None
        for subscription in tuple(self._followers):
            subscription.tick()


class Subscription:
    """One publisher that is followed. Made by :meth:`Subscriptions.follow`."""

    def __init__(
        self,
        *,
        sink: Sink,
        settings: KvEventsSettings,
        clock: Callable[[], float],
        replay: "_Replay | None",
        topic: bytes,
        leave: "Callable[[Subscription, _Inlet | None], None]",
    ) -> None:
        self.topic = topic
        self.has_replay = replay is not None
        self._sink = sink
        self._clock = clock
        self._replay = replay
        self._leave = leave
        self._inlet: _Inlet | None = None
        self._closed = False
        self._stream = EventStream(settings=settings, sink=sink, has_replay=self.has_replay, ask=self._ask)

    @property
    def position(self) -> Position | None:
        """The last batch that was handed on."""
        return self._stream.position

    @property
    def is_open(self) -> bool:
        """Whether it has a socket; else it brings nothing, and the sink was told why."""
        return self._inlet is not None

    @property
    def synced(self) -> bool:
        """Whether it is listened to, and no replay is under way."""
        return self.is_open and self._stream.synced

    @property
    def counts(self) -> Counts:
        """What was seen so far."""
        return self._stream.counts

    def verify(self) -> None:
        """Check by a replay that the publisher is still the one that was followed."""
        if self._inlet is not None:
            self._stream.verify(self._clock())

    def close(self) -> None:
        """Follow no more; the sink is not called again."""
        if self._closed:
            return
        self._closed = True
        inlet, self._inlet = self._inlet, None
        if self._replay is not None:
            self._replay.close()
        if inlet is not None:
            inlet.detach(self)
        self._leave(self, inlet)

    def begin(self, inlet: "_Inlet", position: Position | None) -> None:
        """Start on a socket."""
        self._inlet = inlet
        inlet.attach(self)
        self._stream.start(position, self._clock())

    def tick(self) -> None:
        """Let time pass."""
        if self._inlet is not None:
            self._stream.tick(self._clock())
            self._rest()

    def take(self, frames: _Frames) -> None:
        """Take a message of the publisher."""
        sequence = _sequence(frames[1]) if len(frames) == _LIVE_FRAMES else None
        if sequence is None or sequence < 0:
            self._sink.problem(Problem.MALFORMED, _described(frames))
        else:
            self._stream.live(sequence, frames[2], self._clock())

    def _ask(self, first: int) -> None:
        # The sink may have closed this while the stream was at it.
        if self._replay is not None and not self._closed:
            self._replay.ask(first, replayed=self._replayed, ended=self._ended)

    def _replayed(self, sequence: int, payload: bytes) -> None:
        self._stream.replayed(sequence, payload, self._clock())

    def _ended(self) -> None:
        self._stream.replay_ended(self._clock())
        self._rest()

    def _rest(self) -> None:
        if self._stream.synced and self._replay is not None:
            self._replay.close()


class _Reader:
    """Calls ``read`` with slices of what comes on a socket, which it owns."""

    def __init__(self, socket: _Socket, read: Callable[[list[_Frames]], None], *, group_secs: float) -> None:
        self.socket = socket
        self.emptied = True
        self._read = read
        self._group_secs = group_secs
        self._loop = asyncio.get_running_loop()
        self._descriptor = int(socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._descriptor, self._woken)
        # The descriptor tells of changes only; there may be something already.
        self._due: asyncio.Handle | None = self._loop.call_soon(self._drain)

    def close(self) -> None:
        if self.socket.closed:
            return
        self._loop.remove_reader(self._descriptor)
        if self._due is not None:
            self._due.cancel()
        self.socket.close(linger=0)

    def slice(self) -> list[_Frames]:
        """Up to so many messages, or bytes, without waiting for any; ``emptied`` tells whether there were no more."""
        messages: list[_Frames] = []
        size = 0
        self.emptied = False
        while len(messages) < SLICE and size < MAX_SLICE_BYTES and not self.socket.closed:
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                self.emptied = True
                break
            size += sum([len(frame) for frame in frames])
            messages.append(frames)
        return messages

    def _woken(self) -> None:
        # Asking for the events also takes the signal from the descriptor. There is no other before all is read.
        if int(self.socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN and self._due is None:
            self._due = self._loop.call_later(self._group_secs, self._drain)

    def _drain(self) -> None:
        messages = self.slice()
        # Beforehand, as reading may close the socket.
        self._due = None if self.emptied or self.socket.closed else self._loop.call_soon(self._drain)
        if messages:
            self._read(messages)


class _Inlet:
    """A socket that publishers are read from, for one follower or for several by topic.

    Raises ``OSError`` when the place cannot be had.
    """

    def __init__(self, *, context: "zmq.Context[_Socket]", place: Place, most: int) -> None:
        self.address = place.address
        self._followers: dict[bytes, Subscription] = {}
        self._most = most
        socket = _opened(context, zmq.SUB, place, high_water_mark=most)
        monitor: _Socket = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        try:
            _attached(socket, place)
        except OSError:
            _close_with_monitor(socket, monitor)
            raise
        self._messages = _Reader(socket, self._read, group_secs=GROUP_SECS)
        self._connections = _Reader(monitor, self._connected, group_secs=0)

    @property
    def unused(self) -> bool:
        return not self._followers

    def distinguishes(self, topic: bytes) -> bool:
        """Whether one more follower can be told apart by its topic."""
        return bool(topic) and topic not in self._followers and b"" not in self._followers

    def attach(self, follower: Subscription) -> None:
        self._followers[follower.topic] = follower
        self._messages.socket.setsockopt(zmq.SUBSCRIBE, follower.topic)

    def detach(self, follower: Subscription) -> None:
        if self._followers.pop(follower.topic, None) is not None:
            self._messages.socket.setsockopt(zmq.UNSUBSCRIBE, follower.topic)

    def close(self) -> None:
        self._messages.socket.disable_monitor()
        self._connections.close()
        self._messages.close()

    def _read(self, messages: list[_Frames]) -> None:
        # A connection is told before its first message, so one that is not told yet has brought none of these.
        renewed = bool(self._connections.slice())
        self._hand_on(messages, renewed=renewed)
        if renewed:
            self._renew()

    def _connected(self, _: list[_Frames]) -> None:
        self._renew()

    def _renew(self) -> None:
        """Throw away what came before a new connection, where a replay brings it again, and have that checked."""
        for _ in range(1 + self._most // SLICE):
            messages = self._messages.slice()
            self._hand_on(messages, renewed=True)
            if self._messages.emptied:
                break
        for follower in tuple(self._followers.values()):
            follower.verify()

    def _hand_on(self, messages: list[_Frames], *, renewed: bool) -> None:
        find = self._followers.get
        for frames in messages:
            follower = find(frames[0]) or find(b"")
            if follower is not None and not (renewed and follower.has_replay):
                follower.take(frames)


class _Replay:
    """Asks an engine for replays, one question at a time, each on a socket of its own."""

    def __init__(self, *, context: "zmq.Context[_Socket]", address: str, topic: bytes, sink: Sink, most: int) -> None:
        self._context = context
        self._most = most
        self._place = Place(address, bind=False)
        self._topic = topic
        self._sink = sink
        self._reader: _Reader | None = None

    def ask(self, first: int, *, replayed: Callable[[int, bytes], None], ended: Callable[[], None]) -> None:
        """Ask for the batches from ``first`` on; nothing more is told of an earlier question."""
        self.close()
        socket = self._opened_with(first)
        if socket is None:
            return
        spoilt = False

        def read(messages: list[_Frames]) -> None:
            nonlocal spoilt
            for frames in messages:
                if self._reader is not reader:
                    return
                sequence = _sequence(frames[2]) if len(frames) == _REPLAY_FRAMES else None
                if sequence == _END:
                    # Where something could not be read, the answer does not tell what there is: it counts as silent.
                    if not spoilt:
                        ended()
                elif sequence is None or sequence < 0:
                    spoilt = True
                    self._sink.problem(Problem.MALFORMED, _described(frames))
                elif self._topic and frames[1] != self._topic:
                    if not spoilt:
                        self._sink.problem(Problem.ENDPOINT, f"{self._place.address}: replays have another topic")
                    spoilt = True
                else:
                    replayed(sequence, frames[3])

        reader = self._reader = _Reader(socket, read, group_secs=GROUP_SECS)

    def _opened_with(self, first: int) -> _Socket | None:
        """Return a socket on which the question is out; None when the sink was told why there is none."""
        socket = None
        try:
            # What does not fit is lost, and asked for again.
            socket = _opened(self._context, zmq.DEALER, self._place, high_water_mark=self._most)
            _attached(socket, self._place)
            socket.send_multipart([b"", first.to_bytes(_SEQUENCE_BYTES, "big")], zmq.NOBLOCK)
        except (OSError, zmq.ZMQError) as error:
            if socket is not None:
                socket.close()
            self._sink.problem(Problem.ENDPOINT, str(error))
            return None
        return socket

    def close(self) -> None:
        """Ask no more."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def _opened(context: "zmq.Context[_Socket]", kind: int, place: Place, *, high_water_mark: int) -> _Socket:
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVHWM, high_water_mark)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_PAYLOAD_BYTES)
    socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
    socket.setsockopt(zmq.IPV6, int("[" in place.address))
    return socket


def _attached(socket: _Socket, place: Place) -> None:
    """Bind or connect. Raises ``OSError`` with the place in its text."""
    try:
        if place.bind:
            socket.bind(place.address)
        else:
            socket.connect(place.address)
    except zmq.ZMQError as error:
        raise OSError(error.errno, f"{place.address}: {error.strerror}") from error


def _close_with_monitor(socket: _Socket, monitor: _Socket) -> None:
    socket.disable_monitor()
    monitor.close(linger=0)
    socket.close(linger=0)


def _sequence(frame: bytes) -> int | None:
    return int.from_bytes(frame, "big", signed=True) if len(frame) == _SEQUENCE_BYTES else None


def _described(frames: _Frames) -> str:
    sizes = ", ".join(str(len(frame)) for frame in frames[: _REPLAY_FRAMES + 1])
    return f"a message of {len(frames)} frames ({sizes} bytes) is no batch"
