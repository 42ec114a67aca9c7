"""The lifecycle in real children: it owns signals and standard input."""

import signal

from extproc.shm.processes import ProcessState
from tests.support.children import Children
from tests.support.processes import wait_until


def test_the_row_tells_starting_ready_and_draining(children: Children) -> None:
    child = children.spawn("serve")
    states = [child.row.state]
    wait_until(lambda: child.ready)
    child.terminate(deadline_ns=0)
    wait_until(child.reap)
    states.append(child.row.state)
    assert states == [ProcessState.STARTING, ProcessState.DRAINING]
    assert [event.what for event in children.events] == ["start", "ready", "stop", "end"]


def test_a_fault_is_told_in_the_row_and_by_the_exit_code(children: Children) -> None:
    child = children.spawn("failing_lifecycle")
    wait_until(child.reap)
    assert (child.row.state, child.exit_code) == (ProcessState.FAILED, 1)


def test_ready_after_the_word_to_stop_has_no_effect(children: Children) -> None:
    child = children.spawn("ready_too_late")
    wait_until(lambda: children.events)
    child.terminate(deadline_ns=0)
    wait_until(child.reap)
    assert child.row.state is ProcessState.DRAINING


def test_a_second_word_to_stop_changes_nothing(children: Children) -> None:
    child = children.spawn("deaf")
    wait_until(lambda: child.ready)
    child.terminate(deadline_ns=0)
    wait_until(lambda: child.row.state is ProcessState.DRAINING)
    child.terminate(deadline_ns=0)
    beat = child.row.heartbeat_ns
    wait_until(lambda: child.row.heartbeat_ns > beat)
    child.kill()
    wait_until(child.reap)
    assert child.exit_code == -signal.SIGKILL
