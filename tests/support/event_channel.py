"""A model of a publisher of events and of the channel from it, which loses, doubles and reorders."""

import random
from collections import deque
from collections.abc import Callable

import msgspec

from extproc.config.kv_events import KvEventsSettings
from extproc.kvevents.stream import EventStream, Sink

SETTINGS = KvEventsSettings(max_pending_batches=16, replay_attempts=3, replay_timeout_secs=1.0)
ACTIONS = ("publish", "publish", "lose", "double", "delay", "deliver", "deliver", "restart", "read", "read", "tick")


class Engine:
    """A publisher with a bounded buffer whose replay may lose batches and its end mark.

    ``events`` makes up what the next batch says, in the engine's layout.
    """

    def __init__(self, buffer: int, *, events: Callable[[], list[object]] = list) -> None:
        self.buffer: deque[tuple[int, bytes]] = deque(maxlen=buffer)
        self.all: list[bytes] = []
        self.incarnation = 0
        self.time = 1000.0
        self._events = events

    def restart(self) -> None:
        self.incarnation += 1
        self.buffer.clear()
        self.all = []

    def publish(self) -> tuple[int, bytes]:
        self.time += 0.5
        payload = msgspec.msgpack.encode([self.time, self._events(), 0, self.incarnation])
        message = (len(self.all), payload)
        self.buffer.append(message)
        self.all.append(payload)
        return message


class World:
    """An engine, a stream, and what is on its way between them."""

    def __init__(self, engine: Engine, sink: Sink, *, seed: int, has_replay: bool = True) -> None:
        self.random = random.Random(seed)
        self.engine = engine
        self.stream = EventStream(settings=SETTINGS, sink=sink, has_replay=has_replay, ask=self.ask)
        self.now = 0.0
        self.question: int | None = None
        self.answer: deque[tuple[int, bytes] | None] | None = None
        self.late: list[tuple[int, bytes]] = []
        self.calm = False

    def ask(self, first: int) -> None:
        self.question, self.answer = first, None

    def step(self, action: str) -> None:
        if action == "publish":
            self.stream.live(*self.engine.publish(), self.now)
        elif action == "lose":
            self.engine.publish()
        elif action == "double":
            message = self.engine.publish()
            self.stream.live(*message, self.now)
            self.late.append(message)
        elif action == "delay":
            self.late.append(self.engine.publish())
        elif action == "deliver" and self.late:
            self.stream.live(*self.late.pop(self.random.randrange(len(self.late))), self.now)
        elif action == "restart":
            self.engine.restart()
            if self.answer is not None and self.random.random() < 0.5:
                self.answer = deque()  # what it was sending is lost, and so is the end
            # The connection was lost with what was in it, and made again: whoever holds it asks for a check.
            self.late.clear()
            self.stream.verify(self.now)
        elif action == "read":
            self.read(answers=self.random.randrange(1, 6))
        elif action == "tick":
            self.now += 0.6
            self.stream.tick(self.now)

    def read(self, *, answers: int) -> None:
        """Let the engine answer, and the stream read some of it."""
        for _ in range(answers):
            if self.answer is None and self.question is not None:
                self.answer = self.replay(self.question)
                self.question = None
            if not self.answer:
                return
            message = self.answer.popleft()
            if message is None:
                self.stream.replay_ended(self.now)
            else:
                self.stream.replayed(*message, self.now)

    def replay(self, first: int) -> deque[tuple[int, bytes] | None]:
        messages: list[tuple[int, bytes] | None] = [message for message in self.engine.buffer if message[0] >= first]
        if self.random.random() < 0.6:
            # As a socket does whose queue is full: the first few come, then some do not.
            safe = self.random.randrange(4)
            messages = messages[:safe] + [m for m in messages[safe:] if self.random.random() < 0.5]
            if not self.calm and self.random.random() < 0.5:
                return deque(messages)
        return deque([*messages, None])

    def settle(self) -> None:
        """Let everything arrive."""
        self.calm = True
        for message in self.late:
            self.stream.live(*message, self.now)
        self.late.clear()
        for _ in range(2):
            for _ in range(60):
                self.read(answers=1000)
                self.step("tick")
            self.stream.live(*self.engine.publish(), self.now)
        for _ in range(60):
            self.read(answers=1000)
            self.step("tick")
