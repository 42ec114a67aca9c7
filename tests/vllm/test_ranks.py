"""Data parallel ranks of one real vLLM server: each has a cache of its own, and is chosen by itself."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import NamedTuple

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from tests.support.envoy import free_ports
from tests.support.waiting import until
from tests.vllm.conversations import ENOUGH, Conversations, Outcome
from tests.vllm.gateway import SETTLED_SECS, Gateway, gateway, more_samples, samples, trusted
from tests.vllm.servers import Tiny, VllmServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

RANKS = 2
WORKER = "two"
RANK_IDS = ("two/0", "two/1")


class Stage(NamedTuple):
    server: VllmServer
    gate: Gateway


@pytest.fixture(scope="module")
def server(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    port, events, replay = free_ports(3)
    endpoints = ("--kv-events-endpoint", f"tcp://127.0.0.1:{events}")
    replays = ("--kv-events-replay-endpoint", f"tcp://127.0.0.1:{replay}")
    flags = [*tiny.flags, "--data-parallel-size", str(RANKS), *endpoints, *replays]
    with VllmServer(model=tiny.model, port=port, directory=tmp_path_factory.mktemp("kv"), flags=flags) as one:
        yield one


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(tiny: Tiny, server: VllmServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    workers = [{"id": WORKER, "address": server.address, "data_parallel_size": RANKS}]
    async with gateway(tmp_path_factory.mktemp("gate"), model=tiny.model, workers=workers) as gate:
        yield Stage(server, gate)


def finished(server: VllmServer) -> dict[str, float]:
    """Requests that each rank has finished."""
    status, text = server.call("GET", "/metrics")
    assert status == 200
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            if sample.name == "vllm:request_success_total":
                found[sample.labels["engine"]] = found.get(sample.labels["engine"], 0) + sample.value
    return found


async def test_each_rank_tells_where_its_events_are(server: VllmServer) -> None:
    sources = await asyncio.to_thread(server.get, "/kv_event_sources")

    assert sorted(sources) == ["0", "1"]
    for part in ("endpoint", "replay_endpoint"):
        first, second = (int(sources[rank][part].rpartition(":")[2]) for rank in ("0", "1"))
        assert second == first + 1


async def test_conversations_stay_on_the_rank_that_holds_them(stage: Stage) -> None:
    before = await samples(stage.gate.service)
    await trusted(stage.gate.service, *RANK_IDS)

    answers = await Conversations(seed=4).play(stage.gate, requests=100)

    Outcome.of(answers).check()
    results = await more_samples(stage.gate.service, before, count=len(answers))
    assert results["equal"] >= ENOUGH * len(answers), results
    for rank, name in enumerate(RANK_IDS):
        await until(partial(_goes_where_it_is, stage, rank, name), deadline_secs=SETTLED_SECS)
    served = await asyncio.to_thread(finished, stage.server)
    assert set(served) == {"0", "1"}


async def _goes_where_it_is(stage: Stage, rank: int, name: str) -> bool:
    """Whether a prompt that only one rank was asked is routed to that rank, and found there."""
    asked = f"[{uuid.uuid4()}] " + "What was computed once is kept for whoever asks again. " * 20
    body = {"model": "tiny", "prompt": asked, "max_tokens": 1}
    await asyncio.to_thread(stage.server.post, "/v1/completions", body, headers={"x-data-parallel-rank": str(rank)})
    answer = await stage.gate.complete(asked)
    return answer.worker == name and answer.predicted_tokens == answer.cached_tokens > 0
