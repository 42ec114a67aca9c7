"""What an engine announces of its cache, read as it is on the wire, without any of our own reading of it."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import msgspec
import zmq

from tests.support.processes import wait_until
from workers.simulated.kv_events import is_bound

SILENCE_MS = 500
REPLAY_MS = 10_000
END = (-1).to_bytes(8, "big", signed=True)


class EventReader:
    """Subscribes to one engine; ``source`` is its part of `/kv_event_sources`, ``rank`` its number there."""

    def __init__(self, source: Mapping[str, Any], *, rank: int = 0) -> None:
        self.payloads: list[bytes] = []
        self._sequences: list[int] = []
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._replay_endpoint = source["replay_endpoint"]
        self._socket = self._context.socket(zmq.SUB)
        self._socket.set_hwm(0)
        self._socket.subscribe(source["topic"])
        # What the engine does not bind, we do.
        (self._socket.connect if is_bound(source["endpoint"]) else self._socket.bind)(source["endpoint"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._context.destroy(linger=0)

    def drain(self, *, silence_ms: int = 0) -> list[bytes]:
        """Read until nothing comes for so long; returns all payloads so far, from the first that was heard."""
        while self._socket.poll(silence_ms):
            _topic, sequence, payload = self._socket.recv_multipart()
            self._sequences.append(int.from_bytes(sequence, "big"))
            self.payloads.append(payload)
        return self.payloads

    def wait_for_first(self) -> None:
        """Wait for the first batch of the engine's life; what was sent before we listened is asked for again."""
        wait_until(self.drain, why="no events")
        missing = self.replay()[: self._sequences[0]]
        self.payloads[:0] = missing
        self._sequences[:0] = range(len(missing))

    def is_gapless(self) -> bool:
        """Whether every batch of the engine's life is there, in order."""
        return self._sequences == list(range(len(self._sequences)))

    def replay(self, first: int = 0) -> list[bytes]:
        """Ask for the batches from a number on. For some hundreds: of more than 1,000 vLLM 0.32 loses some."""
        found: list[bytes] = []
        with self._context.socket(zmq.DEALER) as dealer:
            dealer.connect(self._replay_endpoint)
            dealer.send_multipart([b"", first.to_bytes(8, "big")])
            while dealer.poll(REPLAY_MS):
                _empty, _topic, sequence, payload = dealer.recv_multipart()
                if sequence == END:
                    return found
                found.append(payload)
        raise AssertionError("the replay has no end")

    def events(self, first: int = 0) -> list[dict[str, Any]]:
        """The events of the batches from index ``first`` on, as maps."""
        return [event for payload in self.payloads[first:] for event in msgspec.msgpack.decode(payload)[1]]


def stored_blocks(events: list[dict[str, Any]]) -> list[list[int]]:
    """The tokens of every block that was stored, in order."""
    blocks = []
    for event in events:
        if event["type"] == "BlockStored":
            tokens, size = event["token_ids"], event["block_size"]
            blocks += [tokens[start : start + size] for start in range(0, len(tokens), size)]
    return blocks
