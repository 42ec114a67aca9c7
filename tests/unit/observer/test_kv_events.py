"""Engines are followed from real sockets, and believed for as long as what they say holds good."""

import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from functools import partial

import msgspec
import numpy as np
import pytest

from extproc.config.kv_events import KvEventsSettings
from extproc.config.models import ModelSpec
from extproc.fleet.load.engine_load import EngineLoad
from extproc.fleet.worker import Worker
from extproc.index.block_hash import Hashes, block_hashes
from extproc.index.prefix_index import Tier
from extproc.kvevents.engine_cache import Doubt
from extproc.kvevents.stream import Problem
from extproc.observer.kv_events import DISTRUST_SECS, LEAST_LIFETIMES, LEAST_SAMPLES, KvEvents, root_of
from extproc.shm.worker_table import Engine, Outcome, Trust
from extproc.telemetry.metrics import KvEventMetrics
from tests.support.engine_events import SIZE, payload, removed, stored
from tests.support.envoy import free_ports
from tests.support.fleets import Shared
from tests.support.kv_publisher import KvPublisher
from tests.support.waiting import until
from tests.support.workers_http import FakeWorker, serving

SETTINGS = KvEventsSettings(replay_timeout_secs=0.5, replay_attempts=3)
SPEC = ModelSpec(name="m", block_size=SIZE)
TOKENS = list(range(16))
OTHERS = list(range(100, 116))
ANY = "tcp://127.0.0.1:*"


def hashes(tokens: list[int]) -> Hashes:
    return block_hashes(np.array(tokens, np.uint32), block_size=SIZE, before=root_of(SPEC, "", ""))


class Stage:
    """The follower of the observer, its tables, and the engines of workers."""

    def __init__(self, settings: KvEventsSettings = SETTINGS) -> None:
        self.shared = Shared()
        self.ahead = 0.0
        self.models = [SPEC]
        self.metrics = KvEventMetrics()
        self.publishers: list[KvPublisher] = []
        self.events = KvEvents(
            settings=settings,
            table=self.shared.table,
            prefixes=self.shared.prefixes,
            models=lambda: self.models,
            metrics=self.metrics,
            clock=self.clock,
            wall_clock=lambda: 1e9,
        )

    def clock(self) -> float:
        return time.monotonic() + self.ahead

    def publisher(self, *, replay: bool = True) -> KvPublisher:
        publisher = KvPublisher(ANY, replay_endpoint=ANY if replay else "")
        self.publishers.append(publisher)
        return publisher

    def place(self, publisher: KvPublisher, slot: int = 1, *, address: str = "127.0.0.1:1") -> Worker:
        """A worker with that engine, which the observer has just found; it was sent a prompt."""
        worker = Worker(
            id=f"w{slot}", address=address, slot=slot, models=("m",),
            kv_events_endpoint=publisher.endpoint.replace("127.0.0.1", "*"),
            kv_events_replay_endpoint=publisher.replay_endpoint,
        )  # fmt: skip
        self.shared.prefixes.record(hashes(OTHERS), slot)
        self.events.placed(worker)
        return worker

    async def wait(self, condition: Callable[[], bool]) -> None:
        async def holds() -> bool:
            for publisher in self.publishers:
                publisher.pump()
            self.events.look()
            return condition()

        await until(holds)

    async def follow(self, publisher: KvPublisher, slot: int = 1) -> Worker:
        """Place a worker, and return once all that its engine has is known precisely and live batches come."""
        worker = self.place(publisher, slot)
        await self.wait(lambda: b"" in publisher.subscribed and self.is_precise(slot))
        publisher.publish(stored(TOKENS))
        await self.wait(partial(self.holds, TOKENS, slot))
        return worker

    def is_precise(self, slot: int = 1) -> bool:
        """Whether the index takes it so, and the table says the same."""
        trust = self.shared.table.engines[slot, Engine.TRUST]
        precise = self.shared.prefixes.is_precise(slot)
        assert trust == (Trust.PRECISE if precise else Trust.APPROXIMATE)
        return precise

    def holds(self, tokens: list[int], slot: int = 1) -> bool:
        return bool(self.shared.prefixes.holds(hashes(tokens), slot, tier=Tier.NEAR).all())

    def leading(self, tokens: list[int], slot: int = 1) -> int:
        """Blocks that it holds or was sent."""
        return self.shared.prefixes.leading_blocks(hashes(tokens), slot)

    def problems(self, what: Problem | Doubt, slot: int = 1) -> float:
        return float(self.metrics.problems.labels(f"w{slot}", what.value)._value.get())

    def batches(self, result: str, slot: int = 1) -> float:
        return float(self.metrics.batches.labels(f"w{slot}", result)._value.get())

    def judge(self, precision: float, samples: int, slot: int = 1) -> None:
        """Write what routers have found when they compared predictions with reports."""
        row = self.shared.table.outcomes[slot]
        row[Outcome.PRECISION], row[Outcome.PRECISION_SAMPLES] = precision, samples

    def turn_over(self, worker: Worker) -> None:
        """Let the counters of an engine say that it has computed as much as its cache holds since this moment."""
        self.shared.table.engines[worker.slot, Engine.CACHED_SINCE] = self.clock()
        self.events.take_load(worker.key, EngineLoad(running=0))

    async def close(self) -> None:
        await self.events.close()
        for publisher in self.publishers:
            publisher.__exit__(None, None, None)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    yield stage
    await stage.close()


async def test_an_engine_that_tells_all_is_precise_and_what_it_was_sent_before_is_forgotten(stage: Stage) -> None:
    publisher = stage.publisher()
    event = stored(TOKENS)
    publisher.make(event)
    publisher.make(removed(event, 3))
    worker = stage.place(publisher)
    assert (stage.is_precise(), stage.leading(OTHERS)) == (False, 4)
    await stage.wait(stage.is_precise)

    assert (stage.leading(TOKENS), stage.leading(OTHERS)) == (3, 0)
    assert stage.events.blocks(worker.key) == 3
    assert stage.batches("replayed") == stage.batches("batches") == 2


async def test_what_comes_and_goes_is_in_the_index_of_each_worker(stage: Stage) -> None:
    one, other = stage.publisher(), stage.publisher()
    await stage.follow(one, 1)
    await stage.follow(other, 70)
    one.publish(removed(stored(TOKENS), 0, 1, 2, 3), stored(OTHERS))
    await stage.wait(lambda: stage.holds(OTHERS))

    assert (stage.leading(TOKENS, 1), stage.leading(TOKENS, 70)) == (0, 4)
    assert not stage.holds(OTHERS, 70)


async def test_a_worker_that_is_gone_is_followed_no_more(stage: Stage) -> None:
    publisher = stage.publisher()
    worker = await stage.follow(publisher)
    stage.events.gone(worker)

    assert not stage.shared.prefixes.is_precise(worker.slot)
    await stage.wait(lambda: not publisher.subscribed)


async def test_after_a_gap_that_nothing_fills_a_worker_is_approximate_until_its_cache_has_turned_over(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = stage.publisher(replay=False)
    worker = stage.place(publisher)
    await stage.wait(lambda: b"" in publisher.subscribed)
    publisher.publish(stored(TOKENS))
    await stage.wait(stage.is_precise)

    publisher.make()
    publisher.publish(stored(OTHERS))
    await stage.wait(lambda: not stage.is_precise() and stage.holds(OTHERS))
    assert stage.leading(TOKENS) == 0
    assert (stage.problems(Problem.GAP), stage.batches("lost")) == (1, 1)
    assert "The KV-cache events of worker w1: gap: " in caplog.text

    stage.turn_over(worker)
    stage.events.look()
    assert stage.is_precise()
    assert stage.leading(OTHERS) == 4


async def follow_without_replay(stage: Stage) -> tuple[Worker, KvPublisher]:
    """Return a worker that is precise and has been read, and its engine, which has published one batch."""
    publisher = stage.publisher(replay=False)
    worker = stage.place(publisher)
    await stage.wait(lambda: b"" in publisher.subscribed)
    publisher.publish(stored(TOKENS))
    await stage.wait(stage.is_precise)
    stage.events.take_load(worker.key, EngineLoad(running=0))
    return worker, publisher


async def test_without_a_replay_a_restart_that_only_the_counters_tell_of_leaves_nothing_of_the_old_cache(
    stage: Stage,
) -> None:
    worker, publisher = await follow_without_replay(stage)
    # The first batch of the new incarnation is lost, and so the second has just the number that is expected.
    publisher.sent = [b"lost"]
    stage.events.restarted(worker)
    publisher.publish(stored(OTHERS))
    await stage.wait(lambda: stage.holds(OTHERS))

    assert (stage.is_precise(), stage.leading(TOKENS)) == (False, 0)


async def test_without_a_replay_a_restart_that_the_stream_has_shown_is_not_taken_for_another(stage: Stage) -> None:
    worker, publisher = await follow_without_replay(stage)
    publisher.sent = []
    publisher.send(0, payload(stored(OTHERS), seconds=2e9))
    await stage.wait(lambda: stage.holds(OTHERS))
    stage.events.restarted(worker)
    stage.events.flush()
    stage.events.look()

    assert stage.is_precise()
    assert (stage.leading(OTHERS), stage.leading(TOKENS)) == (4, 0)


async def test_a_gap_that_a_replay_fills_leaves_a_worker_precise(stage: Stage) -> None:
    publisher = stage.publisher()
    await stage.follow(publisher)
    publisher.make(removed(stored(TOKENS), 2))
    publisher.publish(stored(OTHERS))
    await stage.wait(lambda: stage.holds(OTHERS) and stage.is_precise())

    assert (stage.leading(TOKENS), stage.batches("lost"), stage.problems(Problem.GAP)) == (2, 0, 0)


async def test_a_worker_whose_predictions_do_not_come_true_is_not_believed_for_a_while(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = stage.publisher()
    await stage.follow(publisher)
    for precision, samples in ((0.0, LEAST_SAMPLES - 1), (SETTINGS.min_precision, 1000)):
        stage.judge(precision, samples)
        stage.events.look()
        assert stage.is_precise()

    stage.judge(SETTINGS.min_precision - 0.1, LEAST_SAMPLES)
    stage.events.look()
    assert not stage.is_precise()
    assert stage.problems(Doubt.IMPRECISE) == 1
    assert "The KV-cache events of worker w1: imprecise: predictions agree by 0.60" in caplog.text

    # It is followed from the beginning again, and what it says still counts on top of what it is sent.
    await stage.wait(lambda: stage.holds(TOKENS))
    stage.shared.prefixes.record(hashes(OTHERS), 1)
    stage.ahead += DISTRUST_SECS / 2
    stage.events.look()
    assert (stage.is_precise(), stage.leading(OTHERS)) == (False, 4)

    stage.ahead += DISTRUST_SECS / 2
    await stage.wait(stage.is_precise)
    assert (stage.leading(OTHERS), stage.leading(TOKENS)) == (0, 4)
    assert not stage.shared.table.outcomes[1, Outcome.PRECISION_SAMPLES]

    stage.judge(0.1, LEAST_SAMPLES)
    stage.events.look()
    await stage.wait(lambda: stage.holds(TOKENS))
    stage.ahead += DISTRUST_SECS
    stage.events.look()
    assert not stage.is_precise()
    stage.ahead += DISTRUST_SECS
    await stage.wait(stage.is_precise)


async def test_an_engine_that_computes_without_a_word_is_not_believed_until_it_speaks(stage: Stage) -> None:
    publisher = stage.publisher()
    worker = await stage.follow(publisher)
    for tokens in (0.0, 100.0, 200.0):
        load = EngineLoad(running=0, block_size=SIZE, computed_tokens=tokens, first_tokens=0.0)
        stage.events.take_load(worker.key, load)
        stage.ahead += SETTINGS.silent_after_secs
    stage.events.look()
    assert (stage.is_precise(), stage.problems(Doubt.SILENT)) == (False, 1)

    publisher.publish()
    await stage.wait(stage.is_precise)
    assert stage.holds(TOKENS)


async def test_workers_that_do_not_tell_forget_as_those_that_do(stage: Stage) -> None:
    publisher, silent = stage.publisher(), stage.publisher(replay=False)
    await stage.follow(publisher)
    stage.place(silent, 2)
    rows = stage.shared.table.engines
    tokens = list(range(1000, 1000 + SIZE * LEAST_LIFETIMES))
    many = stored(tokens)
    publisher.publish(many)
    await stage.wait(lambda: stage.holds(tokens))
    stage.ahead += 500.0
    publisher.publish(removed(many, *range(1, LEAST_LIFETIMES)))
    await stage.wait(lambda: stage.leading(tokens) == 1)
    assert rows[2, Engine.HALF_LIFE_SECS] == 0

    publisher.publish(removed(many, 0))
    await stage.wait(lambda: bool(rows[2, Engine.HALF_LIFE_SECS]))
    assert 500 <= rows[2, Engine.HALF_LIFE_SECS] < 600
    assert rows[1, Engine.HALF_LIFE_SECS] == 0


async def test_nobody_is_followed_with_the_mode_off(stage: Stage) -> None:
    off = Stage(KvEventsSettings(mode="off"))
    try:
        publisher = off.publisher()
        worker = off.place(publisher)
        # Long enough for another to be followed.
        await stage.follow(stage.publisher())
        publisher.pump()
        assert (publisher.subscribed, publisher.questions) == (set(), [])
        assert (off.is_precise(), off.leading(OTHERS)) == (False, 4)
        off.events.recovered(worker)
        off.events.restarted(worker)
        off.events.gone(worker)
    finally:
        await off.close()


async def test_a_worker_of_a_model_that_is_not_configured_is_followed_once_it_is(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.models = []
    publisher = stage.publisher()
    async with serving(FakeWorker()) as server:
        server.text = json.dumps({"data": [{"id": "m"}, {"id": "ad1", "parent": "m"}]})
        worker = stage.place(publisher, address=server.address)
        await stage.wait(lambda: stage.problems(Doubt.MODEL) == 1)
        assert "The KV-cache events of worker w1: model: none of the configured models" in caplog.text
        assert (server.paths, publisher.subscribed) == (["/v1/models"], set())
        assert (stage.is_precise(), stage.leading(OTHERS)) == (False, 4)

        stage.models = [SPEC]
        stage.events.recovered(worker)
        await stage.wait(stage.is_precise)


@pytest.mark.parametrize("replay", [True, False], ids=["precise", "approximate"])
async def test_what_an_engine_has_said_is_forgotten_where_it_is_followed_no_more(stage: Stage, *, replay: bool) -> None:
    publisher = stage.publisher(replay=replay)
    async with serving(FakeWorker()) as server:
        server.text = '{"data": []}'
        worker = stage.place(publisher, address=server.address)
        await stage.wait(lambda: b"" in publisher.subscribed and (not replay or stage.is_precise()))
        # Without a replay the first batches are missing.
        publisher.make()
        publisher.publish(stored(TOKENS))
        await stage.wait(lambda: stage.holds(TOKENS) and stage.is_precise() is replay)

        stage.models = []
        stage.events.recovered(worker)
        await stage.wait(lambda: stage.problems(Doubt.MODEL) == 1 and not publisher.subscribed)
        assert (stage.is_precise(), stage.leading(TOKENS)) == (False, 0)

        stage.models = [SPEC]
        stage.events.recovered(worker)
        await stage.wait(lambda: b"" in publisher.subscribed)
        publisher.publish(stored(TOKENS))
        await stage.wait(lambda: stage.holds(TOKENS))


async def test_an_address_that_is_taken_is_bound_once_it_is_free(stage: Stage) -> None:
    (port,) = free_ports(1)
    endpoint = f"tcp://127.0.0.1:{port}"
    worker = Worker(id="w1", address="127.0.0.1:1", slot=1, models=("m",), kv_events_endpoint=endpoint)
    with socket.create_server(("127.0.0.1", port)):
        stage.events.placed(worker)

        async def told() -> bool:
            return stage.problems(Problem.ENDPOINT) > 0

        await until(told)
        stage.events.look()
        assert not stage.shared.prefixes.is_precise(1)
    publisher = KvPublisher(endpoint, connect=True)
    stage.publishers.append(publisher)

    async def heard() -> bool:
        publisher.publish(stored(TOKENS))
        return stage.events.blocks(worker.key) > 0

    await until(heard)


async def test_a_worker_whose_entry_changes_is_followed_where_it_says(stage: Stage) -> None:
    first, second = stage.publisher(), stage.publisher()
    worker = await stage.follow(first)
    changed = msgspec.structs.replace(
        worker,
        kv_events_endpoint=second.endpoint.replace("127.0.0.1", "*"),
        kv_events_replay_endpoint=second.replay_endpoint,
    )
    stage.events.changed(changed)
    await stage.wait(lambda: b"" in second.subscribed and stage.is_precise())
    assert not stage.holds(TOKENS)
    second.publish(stored(OTHERS))
    await stage.wait(partial(stage.holds, OTHERS))
