"""Each rule of a stream by itself; all of them together in ``test_stream_properties.py``."""

import math
from collections.abc import Sequence

import msgspec
import pytest
import xxhash

from extproc.config.kv_events import KvEventsSettings
from extproc.kvevents.stream import EventStream, Position, Problem, batch_time

SETTINGS = KvEventsSettings(
    max_pending_batches=16, max_pending_bytes=1 << 20, replay_attempts=3, replay_timeout_secs=1.0
)


def payload(number: int, *, at: float | None = None, incarnation: int = 0) -> bytes:
    return msgspec.msgpack.encode([float(number) if at is None else at, [], incarnation])


class Recorder:
    """Writes down what happens, in one list: resets by their completeness, batches by payload, questions, problems."""

    def __init__(self, *, has_replay: bool = True, position: Position | None = None) -> None:
        self.seen: list[object] = []
        self.stream = EventStream(
            settings=SETTINGS, sink=self, has_replay=has_replay, ask=lambda first: self.seen.append(("ask", first))
        )
        self.stream.start(position, 0.0)

    def batches(self, payloads: Sequence[bytes]) -> None:
        self.seen += payloads

    def reset(self, *, complete: bool) -> None:
        self.seen.append(("reset", complete))

    def problem(self, problem: Problem, detail: str) -> None:
        self.seen.append(problem)

    def live(self, *numbers: int) -> None:
        for number in numbers:
            self.stream.live(number, payload(number), 0.0)

    def replayed(self, *numbers: int, ended: bool = True) -> None:
        for number in numbers:
            self.stream.replayed(number, payload(number), 0.0)
        if ended:
            self.stream.replay_ended(0.0)

    def take(self) -> list[object]:
        """What happened since the last call."""
        seen, self.seen = self.seen, []
        return seen


def batches(*numbers: int) -> list[object]:
    return [payload(number) for number in numbers]


def following(*numbers: int) -> Recorder:
    """One that has read some batches from the start."""
    recorder = Recorder()
    recorder.replayed(*numbers)
    recorder.take()
    return recorder


def test_a_replay_from_the_first_batch_on_is_complete_and_what_waited_goes_on() -> None:
    recorder = Recorder()
    recorder.live(2, 3)
    recorder.replayed(0, 1, 2)

    assert recorder.take() == [("ask", 0), ("reset", True), *batches(0, 1, 2, 3)]
    assert recorder.stream.synced
    assert recorder.stream.position == Position(3, xxhash.xxh3_64_intdigest(payload(3)))


def test_a_replay_that_begins_later_is_incomplete_without_a_problem() -> None:
    recorder = Recorder()
    recorder.replayed(7, 8)

    assert recorder.take() == [("ask", 0), ("reset", False), *batches(7, 8)]


def test_an_empty_replay_is_an_empty_cache_unless_a_batch_came_meanwhile() -> None:
    recorder = Recorder()
    recorder.live(1)
    recorder.replayed()
    assert recorder.take() == [("ask", 0), ("ask", 0)]
    recorder = Recorder()
    recorder.replayed()
    recorder.live(0)
    assert recorder.take() == [("ask", 0), ("reset", True), *batches(0)]


def test_after_a_gap_the_last_batch_is_asked_for_again_and_not_delivered_twice() -> None:
    recorder = following(0, 1)
    recorder.live(4)
    assert not recorder.stream.synced
    recorder.live(5)
    recorder.replayed(1, 2, 3, 4)

    assert recorder.take() == [("ask", 1), *batches(2, 3, 4, 5)]
    assert recorder.stream.counts.replayed == 6


@pytest.mark.parametrize("first", [0, 2])
def test_another_batch_under_the_last_number_is_another_incarnation(first: int) -> None:
    recorder = following(0, 1)
    recorder.stream.verify(0.0)
    recorder.stream.replayed(1, payload(1, incarnation=1), 0.0)
    recorder.replayed(first)

    problems = [Problem.GAP] if first else []
    assert recorder.take() == [("ask", 1), ("ask", 0), *problems, ("reset", not first), *batches(first)]


def test_an_answer_without_the_last_batch_is_a_lost_buffer() -> None:
    recorder = following(0, 1)
    recorder.live(9)
    recorder.replayed()
    recorder.replayed(6, 7, 8)

    assert recorder.take() == [("ask", 1), ("ask", 0), Problem.GAP, ("reset", False), *batches(6, 7, 8, 9)]


def test_a_low_number_is_a_duplicate_unless_its_time_is_new() -> None:
    recorder = following(0, 1, 2)
    recorder.live(1)
    recorder.stream.live(0, b"not readable", 0.0)
    assert (recorder.take(), recorder.stream.counts.duplicates) == ([], 2)
    recorder.stream.live(0, payload(0, at=50.0), 0.0)
    assert recorder.take() == [("ask", 0)]


def test_the_right_number_with_an_old_time_is_checked() -> None:
    recorder = following(0, 1, 2)
    recorder.stream.live(3, payload(3, at=1.5), 0.0)
    assert recorder.take() == [("ask", 2)]
    recorder.replayed(2)
    assert recorder.take() == [("ask", 2)]
    recorder.replayed(2)
    assert recorder.stream.synced
    recorder.live(3)
    assert recorder.take() == batches(3)


def test_holes_in_an_answer_are_asked_for_until_they_are_filled_or_given_up() -> None:
    recorder = following(0)
    recorder.live(6)
    recorder.replayed(0, 1, 2, 4, 5)
    assert recorder.take() == [("ask", 0), *batches(1, 2), ("ask", 2)]
    for _ in range(3):
        recorder.replayed(2, 4, 5)

    assert recorder.take() == [("ask", 2), ("ask", 2), Problem.REPLAY, ("reset", False), *batches(6)]
    assert (recorder.stream.synced, recorder.stream.counts.lost) == (True, 3)


def test_an_answer_that_falls_silent_is_asked_for_again_where_it_stopped() -> None:
    recorder = following(0)
    recorder.live(4)
    recorder.replayed(0, 1, ended=False)
    recorder.stream.tick(0.9)
    assert recorder.take() == [("ask", 0), *batches(1)]
    recorder.stream.tick(1.0)
    recorder.replayed(1, 2, 3)

    assert recorder.take() == [("ask", 1), *batches(2, 3, 4)]


def test_a_publisher_that_is_not_there_is_given_up_and_asked_again_when_it_comes() -> None:
    recorder = Recorder()
    for seconds in (1.0, 2.0, 3.0, 4.0):
        recorder.stream.tick(seconds)
    assert recorder.take() == [*[("ask", 0)] * 3, Problem.REPLAY, ("reset", False)]
    recorder.live(1)
    recorder.replayed(0, 1)

    assert recorder.take() == [("ask", 0), ("reset", True), *batches(0, 1)]


def test_more_than_may_wait_is_dropped_and_asked_for() -> None:
    recorder = following(0)
    recorder.live(*range(2, 19))
    recorder.replayed(0, *range(1, 5))
    recorder.replayed(*range(4, 19))

    assert recorder.take() == [
        ("ask", 0), Problem.OVERFLOW, *batches(*range(1, 5)), ("ask", 4), *batches(*range(5, 19))
    ]  # fmt: skip
    assert recorder.stream.counts.dropped == 17


def test_bytes_that_wait_are_bounded_too() -> None:
    recorder = following(0)
    recorder.stream.live(2, bytes(1 << 20), 0.0)
    recorder.stream.live(3, b"x", 0.0)

    assert recorder.take() == [("ask", 0), Problem.OVERFLOW]


def test_live_batches_and_replays_of_two_publishers_do_not_go_in_circles() -> None:
    recorder = following(*range(50))
    for number in range(5):
        recorder.stream.live(number, payload(number, at=100.0 + number), 0.0)
        recorder.replayed(*range(50))

    assert Problem.REPLAY in recorder.take()


def test_without_replay_a_stream_begins_where_it_is_and_every_gap_is_told() -> None:
    recorder = Recorder(has_replay=False)
    recorder.live(3, 4, 6)
    recorder.stream.live(0, payload(0, at=60.0), 0.0)

    assert recorder.take() == [
        ("reset", False), *batches(3, 4), Problem.GAP, ("reset", False), *batches(6), ("reset", True),
        payload(0, at=60.0),
    ]  # fmt: skip
    assert (recorder.stream.counts.lost, recorder.stream.synced) == (1, True)


def test_without_replay_the_first_batch_of_all_is_complete() -> None:
    recorder = Recorder(has_replay=False)
    recorder.live(0, 1)

    assert recorder.take() == [("reset", True), *batches(0, 1)]


def test_a_remembered_position_is_checked_and_gone_on_from() -> None:
    recorder = Recorder(position=Position(1, xxhash.xxh3_64_intdigest(payload(1))))
    recorder.replayed(1, 2)

    assert recorder.take() == [("ask", 1), *batches(2)]


@pytest.mark.parametrize(
    ("value", "seconds"), [([2.5, []], 2.5), ([1 << 31, []], float(1 << 31)), ([0.5] + [0] * 20, 0.5)]
)
def test_the_time_of_a_batch_is_read(value: list[object], seconds: float) -> None:
    assert batch_time(msgspec.msgpack.encode(value)) == seconds


@pytest.mark.parametrize("content", [b"", b"\x93", b"\x93\xcb\x01", b"\xdc", b"text", b"\x91\xcb" + b"\xff" * 8])
def test_a_time_that_cannot_be_read_is_no_number(content: bytes) -> None:
    assert math.isnan(batch_time(content))
