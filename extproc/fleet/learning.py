"""What answers tell of a worker's speed: running averages in its outcome row.

The time to the first byte of an answer is taken to be::

    lone_secs + prompts queued before + work tokens / prefill rate + time until a seat is free

Each answer corrects the number that it says most about: a short prompt at an idle worker the first, a long one at an
idle worker the rate, any one at a worker with known seats the time after which one of them becomes free. Rates that the
engine itself reports go before what is learned here; they are in tokens, whatever context these had, so what is sent to
a worker tells how much work a token is there (its *stretch*). What teaches is the time of a whole answer, streamed or
not: the headers of a streamed one come before its first token, and another's come with its last.

Whether requests wait for a seat, only the engine can say (``Engine.SEATS``): an answer that took its time may just have
been long. While all seats are taken one becomes free as often as an answer ends, so each takes as many such times as
there were requests there, its own included; with seats to spare, as many as there are seats.
"""

from extproc.fleet.loads import FIRST_PREFILL_RATE, FIRST_SEAT_SECS
from extproc.shm.layout import ENGINE_ROW_NUMBERS, OUTCOME_ROW_NUMBERS
from extproc.shm.worker_table import Engine, Outcome, WorkerTable

STEP = 0.1
SHORT_PROMPT_TOKENS = 256
LONG_PROMPT_TOKENS = 1024
MIN_SEAT_SECS, MAX_SEAT_SECS = 1e-6, 600.0
MIN_PREFILL_RATE, MAX_PREFILL_RATE = 10.0, 1e7
MAX_SECS = 3600.0
STRETCH_MEMORY_TOKENS = 65_536
"""After so many tokens the stretch known before has half of its weight, as a rate that an engine reports."""


class SpeedLearner:
    """Learns from the answers that one router sees; all routers write the same averages."""

    def __init__(self, table: WorkerTable) -> None:
        self._numbers = table.outcome_numbers
        self._engines = table.engine_numbers
        self._of_all: dict[Outcome, float] = {}

    def answered(
        self,
        slot: int,
        *,
        work_tokens: float,
        ahead: int,
        ahead_secs: float,
        elapsed_secs: float,
        streamed: bool = False,
    ) -> None:
        """Learn from an answer that is complete.

        When it was sent there, so many requests were ``ahead`` of it, and their prompts still took ``ahead_secs``.
        """
        if not 0 <= elapsed_secs <= MAX_SECS:
            return
        if ahead <= 0:
            lone_secs = self._known(slot, Outcome.LONE_SECS)
            if work_tokens <= SHORT_PROMPT_TOKENS or elapsed_secs < lone_secs:
                self._learn(slot, Outcome.LONE_SECS, elapsed_secs)
            elif work_tokens >= LONG_PROMPT_TOKENS and elapsed_secs > lone_secs and not streamed:
                # Answers are streamed because they are long: their prompts are the lesser part of their time.
                self._learn_rate(slot, work_tokens / (elapsed_secs - lone_secs))
        seats = self._told(slot, Engine.SEATS)
        if seats:
            secs = elapsed_secs - work_tokens / self.prefill_rate(slot) - ahead_secs
            seat_secs = min(max(secs / max(ahead + 1, seats), MIN_SEAT_SECS), MAX_SEAT_SECS)
            self._learn(slot, Outcome.SEAT_SECS, seat_secs)

    def sent(self, slot: int, *, new_tokens: int, work_tokens: float) -> None:
        """Learn how much work a prompt token to compute is on the mean."""
        if new_tokens <= 0:
            return
        at = slot * OUTCOME_ROW_NUMBERS + Outcome.PREFILL_STRETCH
        known = self._numbers[at] or 1.0
        weight = new_tokens / (new_tokens + STRETCH_MEMORY_TOKENS)
        self._numbers[at] = known + weight * (work_tokens / new_tokens - known)

    def answer_ended(self, slot: int, *, secs: float) -> None:
        """Learn how long an answer took from its first byte to its end."""
        if 0 <= secs <= MAX_SECS:
            self._learn(slot, Outcome.ANSWER_SECS, secs)

    def answer_secs(self, slot: int) -> float:
        """How long an answer takes from its first byte to its end; 0 while unknown."""
        return self._number(slot, Outcome.ANSWER_SECS)

    def first_byte_secs(self, slot: int, *, work_tokens: float, ahead: int) -> float:
        """How long the first byte takes."""
        seats = self._told(slot, Engine.SEATS)
        queued = max(ahead + 1 - seats, 0.0) if seats else 0.0
        queue_secs = queued * (self._number(slot, Outcome.SEAT_SECS) or FIRST_SEAT_SECS)
        return self._number(slot, Outcome.LONE_SECS) + work_tokens / self.prefill_rate(slot) + queue_secs

    def prefill_rate(self, slot: int) -> float:
        """Work tokens that a worker computes in a second: as it reports, as answers tell, or a first guess."""
        reported = self._told(slot, Engine.PREFILL_RATE) * (self._number(slot, Outcome.PREFILL_STRETCH) or 1.0)
        return reported or self._known(slot, Outcome.PREFILL_RATE) or FIRST_PREFILL_RATE

    def _told(self, slot: int, number: Engine) -> float:
        value: float = self._engines[slot * ENGINE_ROW_NUMBERS + number]
        return value

    def _known(self, slot: int, number: Outcome) -> float:
        """Return what is known of a worker; where that is nothing, what this router saw of others; else 0."""
        return self._number(slot, number) or self._of_all.get(number, 0.0)

    def _learn_rate(self, slot: int, rate: float) -> None:
        # Averaged as seconds a token: as a rate, one short answer by chance would outweigh many.
        self._learn(slot, Outcome.PREFILL_RATE, min(max(rate, MIN_PREFILL_RATE), MAX_PREFILL_RATE), inverse=True)

    def _learn(self, slot: int, number: Outcome, value: float, *, inverse: bool = False) -> None:
        at = slot * OUTCOME_ROW_NUMBERS + number
        self._numbers[at] = _averaged(self._numbers[at], value, inverse=inverse)
        self._of_all[number] = _averaged(self._of_all.get(number, 0.0), value, inverse=inverse)

    def _number(self, slot: int, number: Outcome) -> float:
        value: float = self._numbers[slot * OUTCOME_ROW_NUMBERS + number]
        return value


def _averaged(known: float, value: float, *, inverse: bool) -> float:
    """Return a running average one step further; ``inverse``: that of the numbers' inverses."""
    if not known:
        return value
    return 1 / _averaged(1 / known, 1 / value, inverse=False) if inverse else known + STEP * (value - known)
