"""The supervisor with real children whose roles do nothing but behave, well or badly."""

import os
import signal
import socket
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from extproc.config.supervisor import SupervisorSettings
from extproc.shm.processes import ProcessState, ProcessTable, Role
from extproc.shm.worker_table import WorkerTable
from tests.support.processes import alive, python_child, wait_until
from tests.support.roles_for_tests import BROKEN
from tests.support.supervised import Supervised, supervised

ROLES = "tests.support.roles_for_tests"
ALL = {"router-0", "router-1", "observer-0"}


def wait_all_ready(service: Supervised, *, without: int = 0) -> dict[str, int]:
    """The pids when every place is filled by a ready process that is not the given one."""

    def complete() -> dict[str, int]:
        pids = service.ready_pids()
        return pids if pids.keys() == ALL and without not in pids.values() else {}

    return wait_until(complete, why=lambda: service.log)


def test_starts_and_says_so_when_all_are_ready(tmp_path: Path) -> None:
    with supervised(tmp_path) as service:
        service.wait_ready()
        assert "ready: 2 routers, 1 observer" in service.log
        assert service.ready_pids().keys() == ALL
        assert sorted(service.ready_pids().values()) == service.children()
        assert (service.run_dir / "supervisor.pid").read_text() == f"{service.process.pid}\n"


@pytest.mark.parametrize("name", ["router-1", "observer-0"])
def test_a_killed_child_is_replaced_and_its_requests_are_forgotten(tmp_path: Path, name: str) -> None:
    with supervised(tmp_path) as service:
        service.wait_ready()
        before = service.ready_pids()
        workers = WorkerTable(service.segment())
        assert workers.requests_at(0) == 3
        os.kill(before[name], signal.SIGKILL)
        after = wait_all_ready(service, without=before[name])
        assert {place for place in ALL if after[place] != before[place]} == {name}
        assert workers.requests_at(0) == 3
        assert "died: signal SIGKILL" in service.log


def test_a_child_whose_event_loop_stands_still_is_replaced(tmp_path: Path) -> None:
    with supervised(tmp_path, supervisor={"heartbeat_timeout_secs": 1.0}) as service:
        service.wait_ready()
        stuck = service.ready_pids()["router-0"]
        os.kill(stuck, signal.SIGUSR1)
        wait_all_ready(service, without=stuck)
        assert f"router-0 (pid {stuck}) is stuck" in service.log


def test_a_child_that_never_gets_ready_is_replaced(tmp_path: Path) -> None:
    entries = {Role.OBSERVER: f"{ROLES}:never_ready"}
    with supervised(tmp_path, entries=entries, supervisor={"routers": 1, "start_timeout_secs": 1.5}) as service:
        service.wait_ready()
        assert "was not ready within 1.5 s" in service.log


def test_a_child_that_crashes_at_first_is_tried_again_until_it_is_ready(tmp_path: Path) -> None:
    with supervised(tmp_path, entries={Role.OBSERVER: f"{ROLES}:fault_at_first"}) as service:
        service.wait_ready()
        assert [event.what for event in service.events if event.name == "observer"] == [*["start"] * 4, "ready"]
        assert "RuntimeError: a bug" in service.log


def test_restarts_are_counted_by_role_and_cause(tmp_path: Path) -> None:
    with supervised(tmp_path) as service:
        service.wait_ready()
        killed = service.ready_pids()["router-0"]
        os.kill(killed, signal.SIGKILL)
        wait_all_ready(service, without=killed)
        assert b'"cause": "signal", "role": "router"' in (service.run_dir / "metrics" / "counter_63.db").read_bytes()


def childrens_metric_files(service: Supervised) -> list[str]:
    names = (file.name for file in (service.run_dir / "metrics").iterdir())
    return sorted(name for name in names if "_63" not in name)


def test_a_successor_goes_on_with_the_metric_files_of_its_slot(tmp_path: Path) -> None:
    with supervised(tmp_path) as service:
        service.wait_ready()
        files = childrens_metric_files(service)
        killed = service.ready_pids()["router-0"]
        os.kill(killed, signal.SIGKILL)
        wait_all_ready(service, without=killed)
        assert childrens_metric_files(service) == files


def test_a_role_that_cannot_start_stops_everything_with_exit_code_3(tmp_path: Path) -> None:
    with supervised(tmp_path, entries={Role.OBSERVER: f"{ROLES}:cannot_start"}) as service:
        assert service.wait() == 3
        assert "Cannot start: the address is taken" in service.log
        assert sum(event.name == "observer" for event in service.events) == 1


def test_without_disk_space_it_cannot_start(tmp_path: Path) -> None:
    """Here: files may not grow as large as those of the metrics are."""
    (tmp_path / "extproc.yaml").write_text(f"supervisor: {{run_dir: {tmp_path / 'run'}}}")
    code = (
        "import resource, sys; from extproc.cli.main import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384)); sys.exit(main(['serve', '-c', sys.argv[1]]))"
    )
    with python_child(code, str(tmp_path / "extproc.yaml")) as child:
        assert child.wait(30) == 3


def test_a_role_that_does_not_exist_stops_everything_with_exit_code_3(tmp_path: Path) -> None:
    with supervised(tmp_path, entries={Role.ROUTER: "extproc.nowhere:run"}) as service:
        assert service.wait() == 3
        assert "Cannot load extproc.nowhere:run" in service.log


def test_a_second_service_on_the_same_run_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    with supervised(tmp_path) as first:
        first.wait_ready()
        run_dir = {"run_dir": str(first.run_dir)}
        with supervised(tmp_path / "second", supervisor=run_dir) as second:
            assert second.wait() == 3
            assert f"in use by another service (pid {first.process.pid})" in second.log
        assert first.ready_pids().keys() == ALL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_stops_the_routers_then_the_observer_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    with supervised(tmp_path) as service:
        service.wait_ready()
        pids = service.children()
        service.signal(number)
        assert service.wait() == 0
        assert not [pid for pid in pids if alive(pid)]
        endings = [(event.what, event.name) for event in service.events if event.what in ("stop", "end")]
        assert endings[-2:] == [("stop", "observer"), ("end", "observer")]
        assert len(endings) == 6
        assert not (service.run_dir / "supervisor.pid").exists()


def test_stops_while_it_is_still_starting(tmp_path: Path) -> None:
    with supervised(tmp_path, entries={Role.OBSERVER: f"{ROLES}:deaf"}) as service:
        service.wait_for_log("Started ")
        service.signal(signal.SIGTERM)
        service.signal(signal.SIGTERM)
        assert service.wait() == 0


def test_a_child_that_does_not_stop_is_killed_at_the_second_signal(tmp_path: Path) -> None:
    server = {"drain_timeout_secs": 600.0}
    with supervised(tmp_path, entries={Role.ROUTER: f"{ROLES}:deaf"}, server=server) as service:
        service.wait_ready()
        pids = service.children()
        service.signal(signal.SIGTERM)
        service.wait_for_log("Stopping: SIGTERM")
        service.signal(signal.SIGTERM)
        assert service.wait() == 0
        assert not [pid for pid in pids if alive(pid)]


def test_a_child_that_does_not_stop_is_killed_when_its_time_is_over(tmp_path: Path) -> None:
    server = {"drain_timeout_secs": 0.0}
    with supervised(tmp_path, entries={Role.ROUTER: f"{ROLES}:deaf"}, server=server) as service:
        service.wait_ready()
        service.signal(signal.SIGTERM)
        assert service.wait() == 0
        assert service.log.count("has not stopped in time") == 2


def test_children_end_by_themselves_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    with supervised(tmp_path) as service:
        service.wait_ready()
        pids = service.children()
        service.signal(signal.SIGKILL)
        wait_until(lambda: not any(alive(pid) for pid in pids), why=lambda: service.log)
        assert Counter(event.what for event in service.events)["end"] == 3


def test_a_child_that_is_stuck_ends_although_the_supervisor_is_dead(tmp_path: Path) -> None:
    with supervised(tmp_path, server={"drain_timeout_secs": 0.0}) as service:
        service.wait_ready()
        stuck = service.ready_pids()["router-0"]
        os.kill(stuck, signal.SIGUSR1)
        service.signal(signal.SIGKILL)
        wait_until(lambda: not alive(stuck), why=lambda: service.log)
        assert "most recent call first" in service.log


def test_a_service_starts_where_a_killed_one_was(tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    with supervised(tmp_path) as first:
        first.wait_ready()
        first.signal(signal.SIGKILL)
        first.wait()
        with supervised(tmp_path / "second", supervisor={"run_dir": str(first.run_dir)}) as second:
            second.wait_ready()


def ready_never_fell_below(service: Supervised, role: str, count: int) -> bool:
    """Whether, once there, so many of a role were always ready: a stop is noted after the successor's readiness."""
    serving, lowest = 0, None
    for event in service.events:
        if event.name.startswith(role):
            serving += {"ready": 1, "stop": -1}.get(event.what, 0)
            lowest = serving if lowest is None and serving == count else lowest and min(lowest, serving)
    return lowest is not None and lowest >= count


def test_sighup_replaces_every_child_and_there_are_never_fewer_routers(tmp_path: Path) -> None:
    with supervised(tmp_path) as service:
        service.wait_ready()
        before = service.ready_pids()
        service.change("routing", policy="random")
        service.signal(signal.SIGHUP)
        service.wait_for_log("reloaded: 2 routers, 1 observer")
        after = wait_all_ready(service)
        assert not set(before.values()) & set(after.values())
        assert ready_never_fell_below(service, "router", 2)


def test_two_observers_never_run_at_once(tmp_path: Path) -> None:
    with supervised(tmp_path) as service:
        service.wait_ready()
        service.signal(signal.SIGHUP)
        service.wait_for_log(": reloaded: ")
        observer = [event.what for event in service.events if event.name == "observer"]
        assert observer == ["start", "ready", "stop", "end", "start", "ready"]


def test_a_signal_during_a_reload_causes_one_more(tmp_path: Path) -> None:
    with supervised(tmp_path) as service:
        service.wait_ready()
        service.signal(signal.SIGHUP)
        service.wait_for_log("reloading")
        service.signal(signal.SIGHUP)
        service.signal(signal.SIGHUP)
        service.wait_for_log(": reloaded: ", times=2)
        assert wait_all_ready(service)


def test_sighup_with_a_bad_configuration_lists_the_faults_and_changes_nothing(tmp_path: Path) -> None:
    with supervised(tmp_path) as service:
        service.wait_ready()
        before = service.ready_pids()
        service.offer(faults=("routing.policy: no such policy", "server.tls: no such choice"))
        service.signal(signal.SIGHUP)
        service.wait_for_log("Not reloaded", times=2)
        assert "routing.policy: no such policy" in service.log
        assert "server.tls: no such choice" in service.log
        service.config_file.unlink()
        service.signal(signal.SIGHUP)
        service.wait_for_log("Not reloaded: reading the configuration failed")
        assert service.ready_pids() == before
        service.offer()
        service.signal(signal.SIGHUP)
        service.wait_for_log(": reloaded: ")
        assert not set(before.values()) & set(service.ready_pids().values())


def test_a_router_that_cannot_start_with_the_changed_settings_leaves_all_as_they_are(tmp_path: Path) -> None:
    with supervised(tmp_path) as service:
        service.wait_ready()
        before = service.ready_pids()
        service.change("routing", policy=BROKEN)
        service.signal(signal.SIGHUP)
        service.wait_for_log("The reload ends here: router-0")
        assert service.ready_pids() == before
        os.kill(before["router-0"], signal.SIGKILL)
        wait_all_ready(service, without=before["router-0"])
        service.signal(signal.SIGTERM)
        assert service.wait() == 0


def test_settings_that_take_a_restart_are_named_and_kept(tmp_path: Path) -> None:
    with supervised(tmp_path) as service:
        service.wait_ready()
        cache_bytes = service.settings.tokens.cache_bytes
        supervisor = replace(service.settings.supervisor, routers=5)
        tokens = replace(service.settings.tokens, cache_bytes=2 * cache_bytes)
        service.offer(replace(service.settings, supervisor=supervisor, tokens=tokens))
        service.signal(signal.SIGHUP)
        service.wait_for_log("reloaded: 2 routers, 1 observer")
        assert "supervisor.routers is changed, which takes a restart; going on with 2" in service.log
        assert f"tokens.cache_bytes is changed, which takes a restart; going on with {cache_bytes}" in service.log


def open_sockets(pid: int) -> set[str]:
    """The inodes of a process's sockets."""
    links = (str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir())
    return {link.removeprefix("socket:[").removesuffix("]") for link in links if link.startswith("socket:")}


def listening_sockets(port: int) -> set[str]:
    """The inodes of the sockets that listen on a port, here or anywhere in the network namespace."""
    lines = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return {line[9] for line in lines if line[1].endswith(f":{port:04X}") and line[3] == "0A"}


def test_the_supervisor_itself_heeds_a_reloaded_log_format(tmp_path: Path) -> None:
    with supervised(tmp_path) as service:
        service.wait_ready()
        service.change("telemetry", log_format="json")
        service.signal(signal.SIGHUP)
        service.wait_for_log(
            '"process": "supervisor", "logger": "extproc.supervisor.supervisor", "message": "reloaded: '
        )


def test_routers_inherit_the_listening_socket_of_the_shared_address(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    with supervised(tmp_path, server={"shared_address": f"127.0.0.1:{port}"}) as service:
        service.wait_ready()
        with socket.create_connection(("127.0.0.1", port)):
            pass
        (own,) = open_sockets(service.process.pid) & listening_sockets(port)
        assert all(own in open_sockets(pid) for pid in service.ready_pids().values())


def test_a_shared_address_in_use_is_exit_code_3(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with supervised(tmp_path, server={"shared_address": address}) as service:
            assert service.wait() == 3
            assert f"cannot listen on {address}" in service.log


def test_the_supervisor_has_a_row_of_its_own(tmp_path: Path) -> None:
    with supervised(tmp_path) as service:
        service.wait_ready()
        row = next(row for row in ProcessTable(service.segment()).rows() if row.role is Role.SUPERVISOR)
        assert (row.slot, row.pid, row.state) == (63, service.process.pid, ProcessState.READY)


def test_a_machine_that_slept_has_no_stuck_children(tmp_path: Path) -> None:
    """Everything is frozen for longer than the time-out, then goes on; the supervisor wakes first."""
    settings = {"heartbeat_timeout_secs": 1.0, "heartbeat_interval_secs": SupervisorSettings().heartbeat_interval_secs}
    with supervised(tmp_path, supervisor=settings) as service:
        service.wait_ready()
        before = service.ready_pids()
        for pid in (service.process.pid, *before.values()):
            os.kill(pid, signal.SIGSTOP)
        rows = [row for row in ProcessTable(service.segment()).rows() if row.role is not Role.SUPERVISOR]
        own = ProcessTable(service.segment()).row(63)
        newest = max(row.heartbeat_ns for row in (*rows, own))
        wait_until(lambda: time.monotonic_ns() - newest > 1_200_000_000)
        service.signal(signal.SIGCONT)
        wait_until(lambda: own.heartbeat_ns > newest)
        for pid in before.values():
            os.kill(pid, signal.SIGCONT)
        wait_until(lambda: all(row.heartbeat_ns > newest for row in rows))
        assert service.ready_pids() == before
