"""Puts the batches of one publisher in order: no socket, no clock.

A publisher numbers its batches from 0, and begins again at every start. What it sends live can be lost, and more so
while nobody is connected; it replays what it still has. A number alone does not tell an incarnation from the next, so
every replay begins with the last batch that was applied, whose content must be the same, and a batch with a low number
and a newer time is of a new incarnation.

vLLM's replay drops what its socket cannot take (0.32: beyond some 1000 batches), with or without the mark of its end.
So what is out of sequence is not applied, and another replay is asked for until nothing is missing.
"""

import math
import struct
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec
import xxhash

from extproc.config.kv_events import KvEventsSettings
from extproc.kvevents.waiting import Waiting

_NEVER = float("-inf")
_UNKNOWN = float("nan")
_ARRAY_HEADS = {0xDC: 3, 0xDD: 5}
"""First bytes of long msgpack arrays, and how long their heads are."""
_NUMBERS = {0xCB: struct.Struct(">d"), 0xCA: struct.Struct(">f"), 0xCE: struct.Struct(">I"), 0xCF: struct.Struct(">Q")}
_LONGEST_HEAD = 14


class Problem(StrEnum):
    """What went wrong with a stream."""

    GAP = "gap"
    """Batches are missing and cannot be had again."""
    REPLAY = "replay"
    """Replays did not bring what is missing."""
    OVERFLOW = "overflow"
    """More came during a replay than may wait."""
    MALFORMED = "malformed"
    """A message is no batch."""
    ENDPOINT = "endpoint"
    """An endpoint cannot be used."""
    AMBIGUOUS = "ambiguous"
    """Two streams at one endpoint cannot be told apart."""


class Position(msgspec.Struct, frozen=True):
    """The last batch that was applied, and the xxh3_64 ``digest`` of its payload."""

    sequence: int
    digest: int


class Counts(msgspec.Struct):
    """What a stream has seen since it began.

    ``batches`` were handed on; ``replayed`` came from a replay, handed on or not. ``lost`` ones are known to be
    missing, ``dropped`` ones were given away here because too many waited or because they are of an older incarnation.
    """

    batches: int = 0
    replayed: int = 0
    lost: int = 0
    dropped: int = 0
    duplicates: int = 0
    resets: int = 0


class Sink(Protocol):
    """Who is given the batches."""

    def batches(self, payloads: Sequence[bytes]) -> None:
        """Take the next batches, in order, none missing since the last reset."""

    def reset(self, *, complete: bool) -> None:
        """Forget: what follows starts from an empty cache when ``complete``, else from one of unknown content."""

    def problem(self, problem: Problem, detail: str) -> None:
        """Learn of a problem. The detail is for people."""


def batch_time(payload: bytes) -> float:
    """Return the time that a batch begins with, in seconds; not a number when it cannot be read."""
    head = payload[:_LONGEST_HEAD]
    if not head:
        return _UNKNOWN
    at = 1 if 0x91 <= head[0] <= 0x9F else _ARRAY_HEADS.get(head[0], len(head))  # noqa: PLR2004 - msgpack's fixarray
    number = _NUMBERS.get(head[at]) if at < len(head) else None
    if number is None or len(head) < at + 1 + number.size:
        return _UNKNOWN
    seconds = float(number.unpack_from(head, at + 1)[0])
    return seconds if math.isfinite(seconds) else _UNKNOWN


class EventStream:
    """The batches of one publisher, on their way to a ``sink``.

    ``ask`` sends the replay socket a question for the batches from a sequence on; after it no answer to an earlier
    question may be handed in. It is called only with ``has_replay``. Times are in seconds, of one clock.
    """

    def __init__(self, *, settings: KvEventsSettings, sink: Sink, has_replay: bool, ask: Callable[[int], None]) -> None:
        self.counts = Counts()
        self._sink = sink
        self._has_replay = has_replay
        self._ask_replay = ask
        self._timeout = settings.replay_timeout_secs
        self._most_attempts = settings.replay_attempts
        self._waiting = Waiting(most=settings.max_pending_batches, most_bytes=settings.max_pending_bytes)
        self._position: Position | None = None
        self._newest = _NEVER
        self._begun = False
        self._empty = False
        self._asking = False
        self._heard = _NEVER
        self._verified = False
        self._fresh = False
        self._again = False
        self._attempts = 0
        self._restarts = 0

    @property
    def position(self) -> Position | None:
        """The last batch that was applied; None when there is none, or nothing is known of where the stream is."""
        return self._position

    @property
    def synced(self) -> bool:
        """Whether no replay is under way."""
        return not self._asking

    def start(self, position: Position | None, now: float) -> None:
        """Begin, after the batch at ``position`` if there was one. Called once, before everything else."""
        self._position = position
        self._begun = position is not None
        self.verify(now)

    def verify(self, now: float) -> None:
        """Check by a replay that the publisher is still the same one, as after a connection was lost.

        What waits is dropped, as it can be of the last incarnation: nothing that came before the connection was lost
        may be handed in after this call. Without a replay there is no such check.
        """
        if self._has_replay:
            self.counts.dropped += self._waiting.clear()
            # A question that nobody answers fails in time, however often this is called.
            heard = self._heard if self._asking else now
            self._ask(now)
            self._heard = heard

    def live(self, sequence: int, payload: bytes, now: float) -> None:
        """Take a batch that was published."""
        seconds = batch_time(payload)
        position = self._position
        if position is not None and sequence <= position.sequence:
            if seconds > self._newest:
                self._restarted(sequence, seconds, payload, now)
            else:
                self.counts.duplicates += 1
        elif self._asking:
            self._keep(sequence, seconds, payload)
        elif position is None:
            self._first(sequence, seconds, payload, now)
        elif self._has_replay and (sequence > position.sequence + 1 or seconds < self._newest):
            # Also the right number with an old time: a batch of the last incarnation, come late.
            self._ask(now)
            self._keep(sequence, seconds, payload)
        else:
            missing = sequence - position.sequence - 1
            if missing:
                self.counts.lost += missing
                self._sink.problem(Problem.GAP, f"{missing} batches before {sequence} are lost")
                self._reset(complete=False)
            self._restarts = 0
            self._apply(sequence, [(seconds, payload)])

    def replayed(self, sequence: int, payload: bytes, now: float) -> None:
        """Take a batch of the answer to the last question."""
        if not self._asking:
            return
        self._heard = now
        self.counts.replayed += 1
        position = self._position
        if position is None:
            if sequence and self._begun:
                self._sink.problem(Problem.GAP, f"the replay begins with batch {sequence} only")
            self._reset(complete=sequence == 0)
            self._verified = True
        elif not self._verified:
            if (sequence, _digest(payload)) == (position.sequence, position.digest):
                self._verified = True
                self._newest = batch_time(payload)
            else:
                self._from_the_start(now)
            return
        elif sequence != position.sequence + 1:
            self._again |= sequence > position.sequence
            return
        self._fresh = True
        self._apply(sequence, [(batch_time(payload), payload)])

    def replay_ended(self, now: float) -> None:
        """Take the mark of an answer's end."""
        if self._asking:
            self._answered(now, marked=True)

    def tick(self, now: float) -> None:
        """Let time pass: an answer that is silent for too long has ended."""
        if self._asking and now - self._heard >= self._timeout:
            self._answered(now, marked=False)

    def _first(self, sequence: int, seconds: float, payload: bytes, now: float) -> None:
        """Take a live batch when none was applied."""
        if sequence and self._has_replay:
            self._ask(now)
            self._keep(sequence, seconds, payload)
            return
        if sequence and self._begun:
            self._sink.problem(Problem.GAP, f"the stream goes on with batch {sequence}")
        if sequence or not self._empty:
            self._reset(complete=sequence == 0)
        self._apply(sequence, [(seconds, payload)])

    def _restarted(self, sequence: int, seconds: float, payload: bytes, now: float) -> None:
        self._position = None
        self.counts.dropped += self._waiting.clear()
        if not self._has_replay:
            self._first(sequence, seconds, payload, now)
            return
        self._keep(sequence, seconds, payload)
        self._from_the_start(now)

    def _from_the_start(self, now: float) -> None:
        """Ask for everything there is, as the last batch that was applied is of another incarnation, or gone."""
        self._position = None
        self._restarts += 1
        if self._restarts > self._most_attempts:
            # As when live batches and replays come from two publishers.
            self._give_up(now)
        else:
            self._ask(now)

    def _keep(self, sequence: int, seconds: float, payload: bytes) -> None:
        dropped = self._waiting.add(sequence, seconds, payload)
        self.counts.dropped += dropped
        self._again |= dropped > 0
        if self._waiting.full:
            dropped = self._waiting.clear()
            self.counts.dropped += dropped
            # At the end of the answer that is on its way, which brings older ones.
            self._again = True
            self._sink.problem(Problem.OVERFLOW, f"{dropped} batches that waited for a replay are dropped")

    def _ask(self, now: float) -> None:
        self._asking = True
        self._heard = now
        self._verified = self._fresh = self._again = False
        self._ask_replay(0 if self._position is None else self._position.sequence)

    def _answered(self, now: float, *, marked: bool) -> None:
        """Decide what comes after an answer, whose end was ``marked`` or which is silent."""
        if self._verified:
            self._settle(now, marked=marked)
        elif marked and self._position is not None:
            self._from_the_start(now)
        elif marked and not self._waiting and not self._again:
            if not self._empty:
                self._reset(complete=True)
                self._empty = True
            self._rest()
        else:
            self._retry(now)

    def _settle(self, now: float, *, marked: bool) -> None:
        """Go on with what waits, if nothing is missing before it."""
        assert self._position is not None
        settled = self._waiting.settle(self._position.sequence + 1, self._newest)
        if settled.restarted:
            self._from_the_start(now)
            return
        if settled.run:
            self._fresh = True
            self._apply(self._position.sequence + len(settled.run), settled.run)
        if self._fresh:
            self._attempts = 0
        if not (self._again or settled.stale or self._waiting or (self._fresh and not marked)):
            self._rest()
        elif self._fresh:
            self._ask(now)
        else:
            self._retry(now)

    def _rest(self) -> None:
        self._asking = False
        self._attempts = 0
        if self._position is None:
            self._restarts = 0

    def _retry(self, now: float) -> None:
        self._attempts += 1
        if self._attempts < self._most_attempts:
            self._ask(now)
        else:
            self._give_up(now)

    def _give_up(self, now: float) -> None:
        """Do without what is missing; the next replay begins with what is there."""
        first = self._waiting.first
        missing = 0
        if first is not None and self._position is not None:
            missing = max(0, first - self._position.sequence - 1)
        self.counts.lost += missing
        known = f", {missing} batches are lost" if missing else ""
        self._sink.problem(Problem.REPLAY, f"replays do not bring what is missing{known}")
        self._reset(complete=first == 0)
        self._rest()
        if first is None:
            return
        run = self._waiting.settle(first, _NEVER).run
        self._apply(first + len(run) - 1, run)
        if self._waiting:
            self._ask(now)

    def _reset(self, *, complete: bool) -> None:
        self._position = None
        self._newest = _NEVER
        self._begun = True
        self._empty = False
        self.counts.resets += 1
        self._sink.reset(complete=complete)

    def _apply(self, last: int, run: list[tuple[float, bytes]]) -> None:
        """Hand on batches that end with the sequence ``last``."""
        payloads = [payload for _, payload in run]
        self._position = Position(last, _digest(payloads[-1]))
        self._newest = run[-1][0]
        self._begun = True
        self._empty = False
        self.counts.batches += len(payloads)
        self._sink.batches(payloads)


def _digest(payload: bytes) -> int:
    return xxhash.xxh3_64_intdigest(payload)
