"""``chat``: people in conversation with one of a few assistants."""

import dataclasses
from typing import ClassVar

import numpy as np

from extproc.config.setting import setting
from extproc.simulation.loads.generators.base import MAX_BEGINNINGS, mean_rate
from extproc.simulation.loads.generators.conversations import ConversationLoad, TurnDraws
from extproc.simulation.loads.generators.draws import Generator, Ints, lengths

MAX_TURNS = 50
MAX_MESSAGE_TOKENS = 4_000
MAX_ANSWER_TOKENS = 2_000
MAX_THINK_SECS = 120.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Chat(ConversationLoad):
    """Few and short shared prompts, conversations that grow slowly, and people who take their time."""

    name: ClassVar[str] = "chat"

    rate: float = mean_rate(60.0)
    turns: float = setting(5.0, "Turns of a session, the mean of a geometric law.", low=1, high=20)
    assistants: int = setting(3, "Different system prompts.", low=1, high=MAX_BEGINNINGS)
    system_tokens: int = setting(800, "Mean length of a system prompt.", unit="tokens", low=1, high=100_000)
    message_tokens: int = setting(150, "Mean length of a message of a user.", unit="tokens", low=1, high=2_000)
    answer_tokens: int = setting(250, "Mean length of an answer.", unit="tokens", low=1, high=1_000)
    think_secs: float = setting(
        8.0, "Mean time from an answer to the next message, exponential.", unit="s", low=0, high=60
    )

    def _turn_counts(self, rng: Generator, count: int) -> Ints:
        return np.minimum(rng.geometric(1.0 / self.turns, count), MAX_TURNS)

    def _shared_tokens(self, rng: Generator) -> Ints:
        return lengths(rng, self.assistants, mean=self.system_tokens, spread=0.2, cap=2 * self.system_tokens)

    def _turns(self, rng: Generator, count: int) -> TurnDraws:
        return TurnDraws(
            lengths(rng, count, mean=self.message_tokens, spread=0.8, cap=MAX_MESSAGE_TOKENS),
            lengths(rng, count, mean=self.answer_tokens, spread=0.6, cap=MAX_ANSWER_TOKENS),
            np.minimum(rng.exponential(self.think_secs, count), MAX_THINK_SECS),
        )
