"""What is kept of engines over a restart of the whole service, besides the blocks that their events tell of."""

from pathlib import Path

import numpy as np
import pytest

from extproc.config.kv_events import KvEventsSettings
from extproc.fleet.worker import Worker
from extproc.observer.engine_rows import EngineRows
from extproc.observer.kv_events import KvEvents
from extproc.observer.memory import EngineMemory
from extproc.shm.worker_table import Engine, Outcome
from extproc.telemetry.metrics import KvEventMetrics
from tests.support.fleets import Shared, prompt, workers

ONE, TWO = workers(2)
PROMPT = prompt(1600)


class Service:
    """One life of a service with two workers that tell nothing."""

    def __init__(self, path: Path, *, known: tuple[Worker, ...] = (ONE, TWO), fresh: bool = True) -> None:
        self.shared = Shared()
        settings = KvEventsSettings(snapshot_file=str(path), mode="off")
        shared, by_key = self.shared, {worker.key: worker for worker in known}
        self.events = KvEvents(
            settings=settings,
            table=shared.table,
            prefixes=shared.prefixes,
            models=lambda: (),
            metrics=KvEventMetrics(),
            clock=shared.clock,
        )
        self.rows = EngineRows(
            table=shared.table,
            prefixes=shared.prefixes,
            events=self.events,
            worker_of=by_key.get,
            models=lambda: (),
            clock=shared.clock,
        )
        self.memory = EngineMemory(
            settings=settings,
            fresh=fresh,
            table=shared.table,
            prefixes=shared.prefixes,
            rows=self.rows,
            events=self.events,
            workers=lambda: known,
        )

    def place(self, *placed: Worker) -> None:
        for worker in placed:
            self.rows.placed(worker)
            self.events.placed(worker)
            self.memory.placed(worker)

    def held(self, worker: Worker) -> float:
        return float(self.shared.prefixes.match(PROMPT.block_hashes, np.array([worker.slot]))[0])


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.fixture
async def snapshot(tmp_path: Path) -> Path:
    """What a service has left that has sent a prompt to worker 1 and learned how fast worker 2 is."""
    path = tmp_path / "snapshot"
    before = Service(path)
    before.place(ONE, TWO)
    before.shared.prefixes.record(PROMPT.block_hashes, ONE.slot)
    before.shared.table.engines[TWO.slot, Engine.PREFILL_RATE] = 9_000.0
    before.shared.table.outcomes[TWO.slot, Outcome.LONE_SECS] = 0.25
    before.memory.write()
    await before.events.close()
    return path


async def test_a_service_that_starts_anew_knows_what_was_sent_and_how_fast_engines_are(snapshot: Path) -> None:
    after = Service(snapshot)
    after.place(ONE, TWO)
    assert [after.held(ONE), after.held(TWO)] == [100, 0]
    assert after.shared.table.engines[TWO.slot, Engine.PREFILL_RATE] == 9_000.0
    assert after.shared.table.outcomes[TWO.slot, Outcome.LONE_SECS] == 0.25
    await after.events.close()


async def test_it_goes_by_who_a_worker_is_and_not_by_its_slot(snapshot: Path) -> None:
    moved = Worker(id=ONE.id, address=ONE.address, slot=700, models=ONE.models)
    stranger = Worker(id="other", address="10.9.9.9:1", slot=ONE.slot)
    after = Service(snapshot, known=(moved, stranger))
    after.place(stranger, moved)
    assert [after.held(moved), after.held(stranger)] == [100, 0]
    await after.events.close()


async def test_an_observer_that_is_replaced_leaves_the_shared_memory_as_it_is(snapshot: Path) -> None:
    after = Service(snapshot, fresh=False)
    after.place(ONE, TWO)
    assert [after.held(ONE), after.held(TWO)] == [0, 0]
    await after.events.close()


async def test_a_torn_snapshot_is_ignored(snapshot: Path) -> None:
    tear(snapshot)
    after = Service(snapshot)
    after.place(ONE, TWO)
    assert [after.held(ONE), after.held(TWO)] == [0, 0]
    await after.events.close()
