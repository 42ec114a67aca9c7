import dataclasses
from pathlib import Path

import pytest

from extproc.config.fleet import WorkerSpec
from extproc.config.models import ModelSpec
from extproc.config.settings import Settings
from extproc.shm.processes import Role
from extproc.supervisor.boot import ChildBoot, process_name


def boot() -> ChildBoot:
    return ChildBoot(
        role=Role.ROUTER,
        entry="somewhere:run",
        index=2,
        slot=5,
        segment_fd=7,
        shared_socket_fd=None,
        config_file=Path("/etc/extproc.yaml"),
        settings=Settings(
            workers=(WorkerSpec(address="10.0.0.1:8000", id="a\nb", models=("m1", "m2")),),
            models=(ModelSpec(name="m1", aliases=("m2",), content_format="openai", block_size=32),),
        ),
    )


@pytest.mark.parametrize("shared_socket_fd", [None, 9])
def test_a_child_reads_exactly_what_it_was_sent(shared_socket_fd: int | None) -> None:
    sent = dataclasses.replace(boot(), shared_socket_fd=shared_socket_fd)
    assert ChildBoot.from_line(sent.to_line()) == sent


def test_it_is_one_line() -> None:
    line = boot().to_line()
    assert (line.count(b"\n"), line[-1:]) == (1, b"\n")


def test_processes_are_named_by_role_and_routers_by_number() -> None:
    assert boot().name == "router-2"
    assert process_name(Role.OBSERVER, 0) == "observer"
