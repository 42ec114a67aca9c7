"""The breakers of one worker or several, as one router and several see them."""

import pytest

from extproc.config.fleet import FleetSettings
from extproc.fleet.breaker import DECISION_SECS, TURN_SECS, Breakers
from extproc.shm.layout import OUTCOME_ROW_NUMBERS
from extproc.shm.worker_table import Outcome
from tests.support.routers import FAILURES, MAX_OPEN_SECS, OPEN_SECS, PROBE_SECS, SICK, Routers


def test_nothing_is_left_out_while_all_is_well() -> None:
    routers = Routers()
    assert routers.usable() is routers.candidates
    assert not routers.breakers[0].any_open
    assert not routers.breakers[0].is_open(SICK)
    assert routers.breakers[0].try_out(SICK) == 0


def test_opens_for_all_at_once_after_failures_in_a_row_that_different_routers_saw() -> None:
    routers = Routers(3)
    for router in (0, 1):
        routers.breakers[router].failed(SICK)
        assert routers.seen_by() == [0, 1, 2]
    routers.breakers[2].failed(SICK)
    assert routers.seen_by() == []
    assert [breakers.is_open(SICK) for breakers in routers.breakers] == [True] * 3
    assert [breakers.any_open for breakers in routers.breakers] == [True] * 3
    assert [worker.slot for worker in routers.usable(1)] == [1]


def test_a_good_answer_in_between_starts_the_count_anew() -> None:
    routers = Routers(2)
    for _ in range(10):
        for _ in range(FAILURES - 1):
            routers.breakers[0].failed(SICK)
        routers.breakers[1].succeeded(SICK)
    assert routers.seen_by() == [0, 1]


def test_the_same_workers_are_the_same_object() -> None:
    routers = Routers(workers=4)
    routers.open()
    left = routers.usable()
    assert [worker.slot for worker in left] == [1, 2, 3]
    assert routers.usable() is left
    routers.open(2)
    assert [worker.slot for worker in routers.usable()] == [1, 3]
    assert routers.usable() is routers.usable()


def test_candidates_without_an_open_breaker_are_left_as_they_are() -> None:
    routers = Routers(workers=4)
    routers.open()
    others = routers.candidates.only([1, 2])
    assert routers.breakers[0].usable(others) is others


@pytest.mark.parametrize("count", [1, 2, 5])
def test_half_open_is_one_routers_turn_at_a_time_and_each_gets_one(count: int) -> None:
    routers = Routers(count)
    routers.open()
    routers.clock.advance(OPEN_SECS + 0.001)
    turns = set()
    for _ in range(count * 10 * 2):
        seen_by = routers.seen_by()
        assert len(seen_by) <= 1
        turns.update(seen_by)
        routers.clock.advance(TURN_SECS / 10)
    assert turns == set(range(count))


def test_workers_are_tried_by_different_routers_at_one_time() -> None:
    routers = Routers(2, workers=3)
    routers.open(0)
    routers.open(1)
    routers.clock.advance(OPEN_SECS + 0.001)
    assert {routers.sees(0, 0), routers.sees(0, 1)} == {True, False}


def test_nobody_else_tries_while_a_trial_is_under_way() -> None:
    routers = Routers(3)
    routers.open()
    routers.clock.advance(OPEN_SECS)
    routers.begin_trial()
    for _ in range(int(PROBE_SECS / 0.03) - 2):
        assert routers.seen_by() == []
        routers.clock.advance(0.03)


def test_a_good_answer_closes_for_all() -> None:
    routers = Routers(3)
    routers.open()
    routers.clock.advance(OPEN_SECS)
    router, _ = routers.begin_trial()
    routers.breakers[router].succeeded(SICK)
    assert routers.seen_by() == [0, 1, 2]
    assert not any(breakers.any_open for breakers in routers.breakers)
    # And it takes as many failures, and as long, as the first time.
    routers.breakers[1].failed(SICK)
    assert routers.seen_by() == [0, 1, 2]
    routers.open()
    assert routers.number(Outcome.OPEN_UNTIL) == pytest.approx(routers.clock.now + OPEN_SECS)


def test_each_failed_trial_doubles_the_time_up_to_the_limit() -> None:
    routers = Routers(2)
    routers.open()
    opened_for = [routers.number(Outcome.OPEN_UNTIL) - routers.clock.now]
    for _ in range(5):
        routers.clock.now = routers.number(Outcome.OPEN_UNTIL)
        router, _ = routers.begin_trial()
        routers.breakers[router].failed(SICK)
        assert routers.seen_by() == []
        opened_for.append(routers.number(Outcome.OPEN_UNTIL) - routers.clock.now)
    assert opened_for == pytest.approx([1, 2, 4, MAX_OPEN_SECS, MAX_OPEN_SECS, MAX_OPEN_SECS])


def test_a_trial_without_outcome_frees_the_way_after_a_time() -> None:
    routers = Routers(2)
    routers.open()
    routers.clock.advance(OPEN_SECS)
    _, first = routers.begin_trial()
    _, second = routers.begin_trial()
    assert PROBE_SECS <= second - first < PROBE_SECS + 2 * TURN_SECS


def test_a_trial_that_is_given_up_frees_the_way_at_once() -> None:
    routers = Routers(2)
    routers.open()
    routers.clock.advance(OPEN_SECS)
    router, first = routers.begin_trial()
    routers.breakers[router].give_up(SICK, first)
    _, second = routers.begin_trial()
    assert second - first < 2 * TURN_SECS


def test_giving_up_another_request_does_not_free_the_way() -> None:
    """Neither one that is no trial nor a trial of which nothing was heard for too long."""
    routers = Routers(2)
    routers.open()
    routers.clock.advance(OPEN_SECS)
    router, lost = routers.begin_trial()
    routers.breakers[router].give_up(SICK, 0.0)
    assert routers.seen_by() == []
    _, trial = routers.begin_trial()
    routers.breakers[router].give_up(SICK, lost)
    for breakers in routers.breakers:
        breakers.give_up(SICK, 0.0)
    assert trial > lost
    for _ in range(10):
        routers.clock.advance(TURN_SECS / 2)
        assert routers.seen_by() == []


def test_what_was_sent_before_does_not_prolong_the_opening() -> None:
    routers = Routers(2)
    routers.open()
    until = routers.number(Outcome.OPEN_UNTIL)
    for _ in range(20):
        routers.clock.advance(OPEN_SECS / 25)
        routers.breakers[1].failed(SICK)
    assert routers.number(Outcome.OPEN_UNTIL) == until
    # Half-open, and nothing was sent yet.
    routers.clock.now = until
    routers.breakers[0].failed(SICK)
    assert routers.number(Outcome.OPEN_UNTIL) == until


def test_a_late_good_answer_to_an_earlier_request_does_not_keep_a_failed_trial_from_opening() -> None:
    routers = Routers(2)
    routers.open()
    routers.clock.advance(OPEN_SECS / 2)
    routers.breakers[1].succeeded(SICK)
    assert routers.seen_by() == []
    routers.clock.advance(OPEN_SECS)
    router, _ = routers.begin_trial()
    routers.breakers[router].failed(SICK)
    assert routers.number(Outcome.OPEN_UNTIL) == pytest.approx(routers.clock.now + 2 * OPEN_SECS)


def test_with_all_open_all_are_used_and_that_is_counted() -> None:
    routers = Routers(2)
    routers.open(0)
    routers.open(1)
    assert routers.usable(1) is routers.candidates
    assert routers.ignored == 1
    assert routers.usable(0) is routers.candidates
    assert routers.ignored == 2


def test_what_is_sent_in_spite_of_an_open_breaker_is_no_trial() -> None:
    """Of such a request nothing may ever be heard, and the first trial does not wait for it."""
    routers = Routers(2)
    routers.open(0)
    routers.open(1)
    routers.clock.advance(OPEN_SECS / 2)
    assert routers.sees(0)
    assert routers.breakers[0].try_out(SICK) == 0
    routers.table.reset_rows(1)
    routers.clock.now = until = routers.number(Outcome.OPEN_UNTIL)
    _, trial = routers.begin_trial()
    assert trial - until < 2 * TURN_SECS


def test_threshold_0_turns_breakers_off() -> None:
    routers = Routers(failures=0)
    for _ in range(100):
        routers.breakers[0].failed(SICK)
    assert routers.usable() is routers.candidates
    assert not routers.is_open


def test_threshold_0_also_ignores_what_a_predecessor_opened() -> None:
    routers = Routers()
    routers.open()
    off = Breakers(table=routers.table, settings=FleetSettings(breaker_failures=0), clock=routers.clock)
    assert off.usable(routers.candidates) is routers.candidates
    assert not off.any_open
    assert not off.is_open(SICK)
    assert off.try_out(SICK) == 0


def test_another_worker_in_the_slot_starts_closed() -> None:
    routers = Routers(2)
    routers.open()
    assert routers.seen_by() == []
    routers.table.reset_rows(SICK)
    assert routers.seen_by() == [0, 1]


def test_a_router_killed_before_it_told_of_an_opening_does_not_hide_it_for_ever() -> None:
    routers = Routers(2)
    assert routers.seen_by() == [0, 1]
    routers.table.outcome_numbers[SICK * OUTCOME_ROW_NUMBERS + Outcome.OPEN_UNTIL] = routers.clock.now + 5.0
    routers.breakers[1].failed(SICK)
    assert routers.seen_by() == []


def test_a_router_killed_before_it_told_of_a_closing_leaves_nobody_out() -> None:
    routers = Routers(3)
    routers.open()
    assert routers.seen_by() == []
    routers.table.outcome_numbers[SICK * OUTCOME_ROW_NUMBERS + Outcome.OPEN_UNTIL] = 0.0
    assert routers.seen_by() == [0, 1, 2]


def test_a_decision_that_takes_its_time_at_the_end_of_a_turn_begins_no_second_trial() -> None:
    routers = Routers(2)
    routers.open()
    routers.clock.advance(OPEN_SECS)
    for _ in range(1000):
        deciding = routers.seen_by()
        routers.clock.advance(DECISION_SECS - 0.001)
        if deciding:
            assert routers.seen_by() in ([], deciding)
        routers.clock.advance(0.0007)
