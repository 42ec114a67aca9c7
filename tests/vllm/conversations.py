"""Conversations that take turns, as a load that reuses prefixes, and how far predictions for them come true."""

import random
import uuid
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

from tests.support.event_reader import EventReader
from tests.vllm.gateway import Answer, Gateway, heard

CONVERSATIONS = 20
ENOUGH = 0.99
"""The share of predictions that has to come true where engines announce all that they hold."""
WORDS = ("sea", "river", "count", "return", "file", "lines", "engine", "cache", "the", "of", "and", "while")


class Conversations:
    """Several that take turns; each answer becomes part of what is asked next."""

    def __init__(self, *, seed: int) -> None:
        self._random = random.Random(seed)
        systems = [self._text(150) for _ in range(4)]
        self._messages = [
            [{"role": "system", "content": systems[number % len(systems)]}] for number in range(CONVERSATIONS)
        ]

    async def play(
        self, gate: Gateway, *, requests: int, readers: Mapping[str, EventReader] | None = None
    ) -> list[Answer]:
        """Ask one after the other, each when the service has heard all that the ``readers`` of the engines have."""
        answers = []
        for number in range(requests):
            for worker, reader in (readers or {}).items():
                await heard(gate.service, worker, reader)
            messages = self._messages[number % CONVERSATIONS]
            messages.append({"role": "user", "content": self._text(self._random.choice((5, 30, 90)))})
            answer = await gate.chat(messages, max_tokens=self._random.choice((1, 20, 50)))
            messages.append({"role": "assistant", "content": answer.body["choices"][0]["message"]["content"]})
            answers.append(answer)
        return answers

    def _text(self, words: int) -> str:
        return f"{uuid.UUID(int=self._random.getrandbits(128))} " + " ".join(self._random.choices(WORDS, k=words))


class Outcome(NamedTuple):
    """What was predicted and what was reported for some answers; ``wrong`` are the pairs that differ."""

    asked_tokens: int
    cached_tokens: int
    agreeing: float
    wrong: list[tuple[int, int]]

    @classmethod
    def of(cls, answers: Sequence[Answer]) -> Self:
        """Add up."""
        pairs = [(one.predicted_tokens, one.cached_tokens) for one in answers]
        wrong = [pair for pair in pairs if pair[0] != pair[1]]
        return cls(
            asked_tokens=sum(one.prompt_tokens for one in answers),
            cached_tokens=sum(reported for _, reported in pairs),
            agreeing=1 - len(wrong) / len(pairs),
            wrong=wrong,
        )

    def check(self) -> None:
        """Predictions must come true, and be of something."""
        assert self.agreeing >= ENOUGH, self
        assert self.cached_tokens > self.asked_tokens / 4, self
