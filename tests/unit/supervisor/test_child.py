import subprocess
import sys

import pytest

from tests.support.children import Children
from tests.support.processes import environment, wait_until


@pytest.mark.parametrize(
    ("entry", "code"), [("cannot_start", 3), ("no_such_function", 3), ("fault", 1), ("returns_seven", 7)]
)
def test_the_exit_code_tells_how_it_went(children: Children, entry: str, code: int) -> None:
    child = children.spawn(entry)
    wait_until(child.reap)
    assert child.exit_code == code


@pytest.mark.parametrize("line", ["", '{"role": 2'], ids=["nothing", "half a line"])
def test_a_supervisor_that_dies_before_it_has_said_all_leaves_no_child(line: str) -> None:
    command = [sys.executable, "-P", "-m", "extproc.supervisor.child"]
    done = subprocess.run(command, input=line, text=True, check=False, capture_output=True, env=environment())
    assert (done.returncode, done.stderr) == (1, "")


def test_metric_files_are_named_by_slot(children: Children) -> None:
    child = children.spawn("serve")
    wait_until(lambda: child.ready)
    names = {file.name for file in (children.directory / "metrics").iterdir()}
    assert names == {f"counter_{child.row.slot}.db", f"histogram_{child.row.slot}.db"}
