"""KV-cache events over ZMQ, in the wire format of vLLM 0.32.

A PUB socket carries three frames a batch: topic, sequence number (8 bytes, big-endian, from 0) and a msgpack array of
time, events and data-parallel rank; each event is a map. A ROUTER socket replays the last batches to whoever sends an
empty frame and the first sequence number wanted; the end mark is sequence -1 with an empty topic and payload.

Unlike vLLM's, the PUB socket does not drop for one slow subscriber alone: a batch beyond the high-water mark is sent to
nobody, so that drops can be counted. And replay's high-water mark is above what it may have to send, as in vLLM 0.33;
0.32 drops in silence there.
"""

import asyncio
import collections
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import zmq

from workers.engine.events import CacheEvent, Cleared, Removed, Stored
from workers.simulated.settings import Settings, numbered

logger = logging.getLogger(__name__)

_END = (-1).to_bytes(8, "big", signed=True)
_SEQUENCE_BYTES = 8
_REQUEST_FRAMES = 3
# vLLM's default. Its queue is between the engine and the socket's thread; there is none here.
_MAX_QUEUE_SIZE = 100_000
_GROUP = 0


class Encoder:
    """Words events of one data-parallel rank as vLLM does."""

    def __init__(self, *, block_size: int, loras: Sequence[str], rank: int = 0) -> None:
        self._block_size = block_size
        self._rank = rank
        self._lora_ids = {lora: number for number, lora in enumerate(loras, start=1)}
        self._encode = msgspec.msgpack.Encoder().encode

    def batch(self, events: Sequence[CacheEvent], *, now: float) -> bytes:
        """Encode a batch that is put together ``now``, in seconds since 1970."""
        return self._encode([now, [self._event(event) for event in events], self._rank])

    def _event(self, event: CacheEvent) -> dict[str, Any]:
        if isinstance(event, Removed):
            hashes = [event.block_hash]
            return {"type": "BlockRemoved", "block_hashes": hashes, "medium": "GPU", "group_idx": _GROUP}
        if isinstance(event, Cleared):
            return {"type": "AllBlocksCleared"}
        return self._stored(event)

    def _stored(self, event: Stored) -> dict[str, Any]:
        request, size = event.request, self._block_size
        lora = [request.lora] if request.lora else []
        extra_keys: list[list[str] | None] = [lora or None] * event.blocks
        if request.cache_salt and not event.first:
            extra_keys[0] = [*lora, request.cache_salt]
        return {
            "type": "BlockStored",
            "block_hashes": list(event.hashes),
            "parent_block_hash": event.parent,
            "token_ids": list(request.tokens[event.first * size : (event.first + event.blocks) * size]),
            "block_size": size,
            "lora_id": self._lora_ids.get(request.lora),
            "medium": "GPU",
            "lora_name": request.lora or None,
            "extra_keys": extra_keys,
            "group_idx": _GROUP,
            "kv_cache_spec_kind": "full_attention",
        }


class Publisher:
    """Sends batches, never waiting for anybody, and replays the last ``buffer_steps`` of them.

    ``on_drop`` is called for each batch that is not sent because a subscriber has ``hwm`` of them waiting. Raises
    ``OSError`` for an endpoint that cannot be had.
    """

    def __init__(
        self,
        *,
        context: "zmq.Context[zmq.Socket[bytes]]",
        encoder: Encoder,
        endpoint: str,
        replay_endpoint: str,
        topic: str,
        buffer_steps: int,
        hwm: int,
        on_drop: Callable[[], None],
    ) -> None:
        self._encoder = encoder
        self._topic = topic.encode()
        self._on_drop = on_drop
        self._sequence = 0
        self._dropped = False
        self._buffer: collections.deque[tuple[int, bytes]] = collections.deque(maxlen=buffer_steps)
        self._loop = asyncio.get_running_loop()
        self._socket = context.socket(zmq.PUB)
        self._replay = context.socket(zmq.ROUTER) if replay_endpoint else None
        try:
            self._socket.set_hwm(hwm)
            self._socket.setsockopt(zmq.XPUB_NODROP, 1)
            endpoint = _open(self._socket, endpoint, bind=is_bound(endpoint))
            if self._replay is not None:
                self._replay.setsockopt(zmq.SNDHWM, buffer_steps + 1)
                replay_endpoint = _open(self._replay, replay_endpoint, bind=True)
                self._loop.add_reader(int(self._replay.getsockopt(zmq.FD)), self._answer_replays)
                # The descriptor tells of changes only; there may be something already.
                self._loop.call_soon(self._answer_replays)
        except OSError:
            self.close()
            raise
        self.source: Mapping[str, Any] = {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            "endpoint": endpoint,
            "replay_endpoint": replay_endpoint or None,
            "buffer_steps": buffer_steps,
            "hwm": hwm,
            "max_queue_size": _MAX_QUEUE_SIZE,
            "topic": topic,
        }

    def publish(self, events: Sequence[CacheEvent], *, now: float) -> None:
        """Send one batch."""
        payload = self._encoder.batch(events, now=now)
        if self._replay is not None:
            self._buffer.append((self._sequence, payload))
        try:
            self._socket.send_multipart([self._topic, _framed(self._sequence), payload], zmq.NOBLOCK)
        except zmq.Again:
            self._on_drop()
            if not self._dropped:
                self._dropped = True
                logger.warning("A subscriber to KV-cache events is too slow: batches are dropped")
        self._sequence += 1

    def close(self) -> None:
        """Close the sockets; what was not sent is lost."""
        self._socket.close(linger=0)
        if self._replay is not None:
            self._loop.remove_reader(int(self._replay.getsockopt(zmq.FD)))
            self._replay.close(linger=0)

    def _answer_replays(self) -> None:
        replay = self._replay
        assert replay is not None
        while not replay.closed and int(replay.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            frames = replay.recv_multipart(zmq.NOBLOCK)
            if len(frames) != _REQUEST_FRAMES or len(frames[2]) != _SEQUENCE_BYTES:
                logger.warning("A request for replay cannot be read: it has %d frames", len(frames))
                continue
            client, first = frames[0], int.from_bytes(frames[2], "big")
            for sequence, payload in self._buffer:
                if sequence >= first:
                    replay.send_multipart([client, b"", self._topic, _framed(sequence), payload], zmq.NOBLOCK)
            replay.send_multipart([client, b"", b"", _END, b""], zmq.NOBLOCK)


class Publishers:
    """Opens the publishers of one process, which share ZMQ's threads."""

    def __init__(self) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    def open(self, settings: Settings, *, block_size: int, rank: int, on_drop: Callable[[], None]) -> Publisher:
        """Open the sockets of one rank of a worker. Raises ``OSError``."""
        return Publisher(
            context=self._context,
            encoder=Encoder(block_size=block_size, loras=settings.loras, rank=rank),
            endpoint=numbered(settings.kv_events_endpoint, rank),
            replay_endpoint=numbered(settings.kv_events_replay_endpoint, rank),
            topic=settings.kv_events_topic,
            buffer_steps=settings.kv_events_buffer_steps,
            hwm=settings.kv_events_hwm,
            on_drop=on_drop,
        )

    def close(self) -> None:
        """Close what is still open, and end ZMQ's threads."""
        self._context.destroy(linger=0)


def is_bound(endpoint: str) -> bool:
    """Whether vLLM binds an endpoint for events, and does not connect to it."""
    return "*" in endpoint or "::" in endpoint or endpoint.startswith(("ipc:", "inproc:"))


def _framed(sequence: int) -> bytes:
    return sequence.to_bytes(_SEQUENCE_BYTES, "big")


def _open(socket: "zmq.Socket[bytes]", endpoint: str, *, bind: bool) -> str:
    """Bind or connect; return the endpoint with the port that the system chose. Raises ``OSError``."""
    try:
        if not bind:
            socket.connect(endpoint)
            return endpoint
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        raise OSError(error.errno, f"{endpoint}: {error}") from error
    return socket.getsockopt_string(zmq.LAST_ENDPOINT) if endpoint.endswith(":*") else endpoint
