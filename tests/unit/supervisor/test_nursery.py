import pytest

from extproc.shm.layout import SUPERVISOR_SLOT
from extproc.shm.processes import ProcessState, Role
from tests.support.children import Children
from tests.support.processes import wait_until


def test_burying_frees_the_slot_and_forgets_what_was_in_flight(children: Children) -> None:
    child = children.spawn("serve")
    wait_until(lambda: child.ready)
    assert children.workers.requests_at(0) == 1
    child.kill()
    wait_until(child.reap)
    children.nursery.bury(child)
    assert (children.workers.requests_at(0), list(children.table.rows())) == (0, [])


def test_a_slot_is_clean_before_it_is_used(children: Children) -> None:
    children.workers.column(0).add(3, requests=9)
    assert children.spawn("never_ready").row.slot == 0
    assert children.workers.requests_at(3) == 0


def test_there_is_no_child_while_every_slot_is_taken(children: Children) -> None:
    for _ in range(SUPERVISOR_SLOT):
        children.table.claim(role=Role.ROUTER, index=0, now_ns=1)
    children.run_entry("serve")
    assert children.nursery.spawn(role=Role.ROUTER, index=0, settings=children.settings) is None


def test_a_child_that_cannot_be_spawned_leaves_its_slot_free(
    children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    children.run_entry("serve")
    with pytest.raises(FileNotFoundError):
        children.nursery.spawn(role=Role.ROUTER, index=0, settings=children.settings)
    assert children.table.row(0).state is ProcessState.FREE
