"""A seat over real children. How it plays in a whole service is in ``tests/integration/test_supervisor.py``."""

import dataclasses
import os
import signal
from collections.abc import Callable

import pytest

from extproc.config.settings import Settings
from extproc.shm.layout import SUPERVISOR_SLOT
from extproc.shm.processes import ProcessState, Role
from extproc.supervisor.process import Cause
from extproc.supervisor.seat import Seat
from tests.support.children import Children
from tests.support.processes import wait_until
from tests.support.roles_for_tests import BROKEN


def tick_until(seat: Seat, condition: Callable[[], object]) -> None:
    """Tick until the condition holds."""

    def reached() -> bool:
        seat.tick(judge_heartbeats=True)
        return bool(condition())

    wait_until(reached)


def with_policy(settings: Settings, policy: str) -> Settings:
    return dataclasses.replace(settings, routing=dataclasses.replace(settings.routing, policy=policy))


def test_a_place_is_filled_and_settles(children: Children) -> None:
    seat = children.seat("serve")
    assert (seat.empty, seat.ready, seat.settled) == (True, False, False)
    tick_until(seat, lambda: seat.settled)
    assert (seat.empty, seat.ready, children.replaced) == (False, True, [])


def test_a_death_is_told_with_its_cause_and_the_place_is_filled_again(children: Children) -> None:
    seat = children.seat("serve")
    tick_until(seat, lambda: seat.ready)
    (pid,) = children.pids(ProcessState.READY)
    os.kill(pid, signal.SIGKILL)
    tick_until(seat, lambda: children.replaced)
    tick_until(seat, lambda: seat.ready)
    assert children.replaced == [(Role.ROUTER, Cause.SIGNAL)]
    assert children.pids(ProcessState.READY) != [pid]


def test_old_heartbeats_are_not_held_against_a_child_while_the_supervisor_was_asleep(children: Children) -> None:
    seat = children.seat("serve")
    tick_until(seat, lambda: seat.ready)
    row = children.table.row(0)
    os.kill(row.pid, signal.SIGSTOP)
    row.heartbeat_ns = 0
    seat.tick(judge_heartbeats=False)
    assert seat.ready
    seat.tick(judge_heartbeats=True)
    tick_until(seat, lambda: children.replaced)
    assert children.replaced == [(Role.ROUTER, Cause.STUCK)]


def test_a_router_is_replaced_by_one_that_is_ready_first(children: Children) -> None:
    seat = children.seat("serve")
    tick_until(seat, lambda: seat.ready)
    seat.replace(with_policy(children.settings, "random"))
    while seat.replacing:
        assert seat.ready
        tick_until(seat, lambda: seat.ready)
    tick_until(seat, lambda: seat.settled)
    assert [event.what for event in children.events] == ["start", "ready", "start", "ready", "stop", "end"]
    assert (seat.replacement_failed, children.replaced) == (False, [(Role.ROUTER, Cause.RELOAD)])


def test_a_reload_brings_its_own_back_off(children: Children) -> None:
    seat = children.seat("serve")
    tick_until(seat, lambda: seat.ready)
    patient = dataclasses.replace(children.settings.supervisor, restart_backoff_secs=60, restart_backoff_max_secs=60)
    seat.replace(dataclasses.replace(children.settings, supervisor=patient))
    tick_until(seat, lambda: seat.settled)
    (pid,) = children.pids(ProcessState.READY)
    os.kill(pid, signal.SIGKILL)
    tick_until(seat, lambda: len(children.replaced) == 2)
    seat.tick(judge_heartbeats=True)
    assert seat.empty


def test_an_observer_is_gone_before_its_successor_starts(children: Children) -> None:
    seat = children.seat("serve", role=Role.OBSERVER)
    tick_until(seat, lambda: seat.ready)
    seat.replace(with_policy(children.settings, "random"))
    tick_until(seat, lambda: seat.settled)
    assert [event.what for event in children.events] == ["start", "ready", "stop", "end", "start", "ready"]


@pytest.mark.parametrize("role", [Role.ROUTER, Role.OBSERVER], ids=["router", "observer"])
def test_a_successor_that_cannot_start_leaves_the_place_filled_with_the_old_settings(
    children: Children, role: Role
) -> None:
    seat = children.seat("serve", role=role)
    tick_until(seat, lambda: seat.ready)
    seat.replace(with_policy(children.settings, BROKEN))
    tick_until(seat, lambda: seat.replacement_failed)
    tick_until(seat, lambda: seat.settled)
    assert (seat.replacing, children.replaced) == (False, [(role, Cause.RELOAD_FAILED)])


def test_a_successor_that_never_gets_ready_is_killed_and_the_old_one_stays(children: Children) -> None:
    seat = children.seat("serve")
    tick_until(seat, lambda: seat.ready)
    (pid,) = children.pids(ProcessState.READY)
    children.run_entry("never_ready_at_all")
    impatient = dataclasses.replace(children.settings.supervisor, start_timeout_secs=0.5)
    seat.replace(dataclasses.replace(children.settings, supervisor=impatient))
    tick_until(seat, lambda: seat.replacement_failed)
    assert children.pids(ProcessState.READY) == [pid]


def test_a_replacement_waits_for_a_free_slot(children: Children) -> None:
    seat = children.seat("serve")
    tick_until(seat, lambda: seat.ready)
    taken = [children.table.claim(role=Role.ROUTER, index=9, now_ns=1) for _ in range(SUPERVISOR_SLOT - 1)]
    seat.replace(children.settings)
    seat.tick(judge_heartbeats=True)
    assert (seat.replacing, seat.ready) == (True, True)
    assert taken[-1] is not None
    children.table.release(taken[-1].slot)
    tick_until(seat, lambda: not seat.replacing)
    assert not seat.replacement_failed


def test_a_process_that_the_system_does_not_give_is_tried_for_again(
    children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    seat = children.seat("serve")
    with monkeypatch.context() as patch:
        patch.setattr("sys.executable", "/nowhere/python")
        seat.tick(judge_heartbeats=True)
    assert children.replaced == [(Role.ROUTER, Cause.NOT_SPAWNED)]
    tick_until(seat, lambda: seat.ready)


def test_a_stopped_place_stays_empty(children: Children) -> None:
    seat = children.seat("serve")
    tick_until(seat, lambda: seat.ready)
    seat.stop()
    tick_until(seat, lambda: seat.empty)
    seat.tick(judge_heartbeats=True)
    assert (seat.empty, children.replaced) == (True, [])
