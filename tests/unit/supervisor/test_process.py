import dataclasses
import os
import signal
import time

from extproc.config.fleet import WorkerSpec
from extproc.supervisor.process import Cause
from tests.support.children import Children
from tests.support.processes import alive, wait_until


def test_a_child_becomes_ready_and_stops_when_told_to(children: Children) -> None:
    child = children.spawn("serve")
    wait_until(lambda: child.ready)
    assert (child.row.pid, child.boot.name) == (child.pid, "router-0")
    child.terminate(deadline_ns=0)
    wait_until(child.reap)
    assert (child.exit_code, child.cause(), child.ending()) == (0, Cause.EXIT, "exit code 0")


def test_the_heartbeat_is_young_while_the_loop_runs_and_ages_when_it_stands_still(children: Children) -> None:
    child = children.spawn("serve")
    wait_until(lambda: child.ready)
    first = child.row.heartbeat_ns
    wait_until(lambda: child.row.heartbeat_ns > first)
    os.kill(child.pid, signal.SIGUSR1)
    wait_until(lambda: child.heartbeat_age_secs(time.monotonic_ns()) > 1.0)


def test_settings_longer_than_a_pipe_holds_arrive_whole(children: Children) -> None:
    workers = tuple(WorkerSpec(address=f"10.0.0.1:{port}", id="x" * 1000) for port in range(1, 1000))
    child = children.spawn("serve", settings=dataclasses.replace(children.settings, workers=workers))

    def sent_and_ready() -> bool:
        child.send()
        return child.ready

    wait_until(sent_and_ready)


def test_a_child_that_dies_before_it_reads_does_no_harm(children: Children) -> None:
    workers = tuple(WorkerSpec(address=f"10.0.0.1:{port}", id="x" * 1000) for port in range(1, 1000))
    child = children.spawn("serve", settings=dataclasses.replace(children.settings, workers=workers))
    os.kill(child.pid, signal.SIGKILL)
    wait_until(lambda: not alive(child.pid))
    child.send()
    wait_until(child.reap)
    assert (child.cause(), child.ending()) == (Cause.SIGNAL, "signal SIGKILL")


def test_a_signal_without_a_name_is_told_by_its_number(children: Children) -> None:
    child = children.spawn("serve")
    os.kill(child.pid, signal.SIGRTMIN + 6)
    wait_until(child.reap)
    assert (child.cause(), child.ending()) == (Cause.SIGNAL, f"signal {signal.SIGRTMIN + 6}")


def test_the_first_cause_of_killing_counts(children: Children) -> None:
    child = children.spawn("serve")
    child.kill(Cause.STUCK)
    child.kill()
    child.kill(Cause.START_TIMEOUT)
    wait_until(child.reap)
    assert child.cause() is Cause.STUCK


def test_ctrl_c_in_the_terminal_does_not_reach_it(children: Children) -> None:
    child = children.spawn("serve")
    assert os.getpgid(child.pid) == child.pid
    wait_until(lambda: child.ready)
    os.kill(child.pid, signal.SIGINT)
    os.kill(child.pid, signal.SIGHUP)
    beat = child.row.heartbeat_ns
    wait_until(lambda: child.row.heartbeat_ns > beat)
