"""A publisher of KV-cache events that can do what a real one does only under load: lose, skip, answer in part."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

import zmq

from extproc.kvevents.events import Event
from tests.support.engine_events import payload

END = b"\xff" * 8
Message = tuple[int, bytes]


class KvPublisher:
    """Publishes batches under a topic. Answers replays when ``pump`` is called; ``lossy`` changes the answers.

    With ``connect`` it connects to the endpoint, as an engine does where the other side binds.
    """

    def __init__(self, endpoint: str, *, replay_endpoint: str = "", topic: str = "", connect: bool = False) -> None:
        self.lossy: Callable[[list[Message]], list[Message]] = list
        self.questions: list[int] = []
        self.sent: list[bytes] = []
        self.topic = topic.encode()
        self.subscribed: set[bytes] = set()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(zmq.XPUB)
        self.router = self._context.socket(zmq.ROUTER)
        if connect:
            self.socket.connect(endpoint)
        else:
            self.socket.bind(endpoint)
        if replay_endpoint:
            self.router.bind(replay_endpoint)
        self.endpoint = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.replay_endpoint = self.router.getsockopt_string(zmq.LAST_ENDPOINT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._context.destroy(linger=0)

    def make(self, *events: Event) -> Message:
        """The next batch, which nobody gets but by a replay."""
        number = len(self.sent)
        self.sent.append(payload(*events, seconds=1e9 + number))
        return number, self.sent[number]

    def publish(self, *events: Event) -> None:
        """Send the next batch."""
        self.send(*self.make(*events))

    def send(self, number: int, payload: bytes) -> None:
        self.socket.send_multipart([self.topic, number.to_bytes(8, "big"), payload])

    def pump(self) -> None:
        """Take the subscriptions and answer the questions that have come."""
        while self.socket.poll(0):
            (change,) = self.socket.recv_multipart()
            (self.subscribed.add if change[0] else self.subscribed.discard)(change[1:])
        while self.router.poll(0):
            client, _, first = self.router.recv_multipart()
            self.questions.append(int.from_bytes(first, "big"))
            messages = [(number, self.sent[number]) for number in range(self.questions[-1], len(self.sent))]
            for number, sent in self.lossy(messages):
                self.router.send_multipart([client, b"", self.topic, number.to_bytes(8, "big"), sent])
            self.router.send_multipart([client, b"", b"", END, b""])
