"""The demo, as a new user runs it."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import wait_until
from tests.support.usage import command_line, descendants

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

COMMAND = [sys.executable, "-m", "extproc", "demo"]
DECISION = re.compile(
    r"worker=(worker-\d); policy=expected_latency; reason=expected_latency; "
    r"tokens=\d+; cache=(\w+); matched=(\d+); wait="
)


def test_once_shows_who_served_and_why_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--once"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    decisions = DECISION.findall(done.stdout)
    matched = [int(tokens) for _, _, tokens in decisions]
    assert matched == sorted(matched)
    assert matched[0] == 0 < matched[2]
    assert len({worker for worker, _, _ in decisions[2:]}) == 1, "who holds the conversation goes on with it"
    assert [cache for _, cache, _ in decisions] == ["miss", *["level_1"] * 4, "level_0"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP], ids=["Ctrl-C", "terminal closed"])
def test_ctrl_c_and_hanging_up_stop_everything_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    """Both as a terminal sends them: to every process of the foreground group."""
    log = tmp_path / "demo.log"
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as output:
        demo = subprocess.Popen(
            COMMAND, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, env=environment
        )
    try:
        wait_until(lambda: demo.poll() is not None or "until Ctrl-C" in log.read_text())
        assert demo.poll() is None, log.read_text()
        started = descendants(demo.pid)
        assert len(started) >= 8, "Envoy, three workers, supervisor, two routers, observer"
        os.killpg(demo.pid, number)
        assert demo.wait(60) == 0, log.read_text()
    finally:
        demo.kill()
        demo.wait()
    assert [pid for pid in started if Path(f"/proc/{pid}").exists()] == []
    assert [path.name for path in tmp_path.iterdir()] == ["demo.log"]


def test_ctrl_c_while_the_bootstrap_is_made_is_no_failure(tmp_path: Path) -> None:
    """The command that makes it is not hit by what the terminal sends to the foreground group."""

    def making_the_bootstrap() -> bool:
        return any(b"envoy-config" in command_line(pid) for pid in descendants(demo.pid))

    environment = os.environ | {"TMPDIR": str(tmp_path)}
    demo = subprocess.Popen(
        COMMAND, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, env=environment, text=True
    )
    try:
        wait_until(making_the_bootstrap)
        started = descendants(demo.pid)
        os.killpg(demo.pid, signal.SIGINT)
        said, _ = demo.communicate(timeout=60)
    finally:
        demo.kill()
        demo.communicate()
    assert (demo.returncode, said.splitlines()[-1]) == (0, "Stopped.")
    assert [pid for pid in started if Path(f"/proc/{pid}").exists()] == []
    assert list(tmp_path.iterdir()) == []


def test_a_failure_is_told_with_its_reason_and_the_place_of_the_logs(tmp_path: Path) -> None:
    """Here: a temporary directory so deep that no unix socket fits into it."""
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    done = subprocess.run(
        [*COMMAND, "--once"], capture_output=True, text=True, check=False, env=os.environ | {"TMPDIR": str(deep)}
    )
    assert done.returncode == 1
    assert "server.router_address" in done.stderr
    assert "Logs are kept in" in done.stderr
