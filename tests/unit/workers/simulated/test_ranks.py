"""Several engines behind one port: who gets which request, and what each tells of itself."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import aiohttp
import msgspec
import pytest
import zmq
from prometheus_client.parser import text_string_to_metric_families

from tests.support.envoy import free_ports
from tests.support.processes import wait_until
from tests.support.simulated_worker import SimulatedWorker, SimulatedWorkers, WorkerCalls

PROFILE = "step:\n  base_secs: 0.002\n  prefill_token_secs: 0.00001\nblock_size: 4\nkv_cache_tokens: 640\n"
RANKS = 3
COMPLETIONS = "vllm:request_prompt_tokens_count"


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("profiles") / "profile.yaml"
    path.write_text(PROFILE)
    return str(path)


@pytest.fixture(scope="module")
def worker(profile: str) -> Iterator[SimulatedWorker]:
    flags = ("--profile", profile, "--data-parallel-size", str(RANKS), "--lora", "ad")
    with SimulatedWorker.start(*flags, "--kv-events-endpoint", "tcp://127.0.0.1:*") as worker:
        yield worker


def complete(worker: WorkerCalls, rank: object = None, **body: object) -> tuple[int, Any]:
    headers = {} if rank is None else {"X-data-parallel-rank": str(rank)}
    status, answer = worker.call(
        "POST", "/v1/completions", json.dumps({"max_tokens": 1, **body}).encode(), headers=headers
    )
    return status, json.loads(answer)


def cached(answer: dict[str, Any]) -> int:
    return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])


def by_rank(worker: WorkerCalls, name: str) -> dict[str, float]:
    return {
        sample.labels["engine"]: sample.value
        for family in text_string_to_metric_families(worker.metrics())
        for sample in family.samples
        if sample.name == name
    }


def test_a_request_goes_to_the_rank_that_it_names_whose_cache_is_its_own(worker: SimulatedWorker) -> None:
    before = by_rank(worker, COMPLETIONS)
    prompt = list(range(100, 120))
    found = [cached(complete(worker, rank, prompt=prompt)[1]) for rank in (0, 0, 2, 2, 2)]
    assert found == [0, 16, 0, 16, 16]
    after = by_rank(worker, COMPLETIONS)
    assert {rank: after[rank] - before[rank] for rank in after} == {"0": 2, "1": 0, "2": 3}


@pytest.mark.parametrize("rank", [3, -1, 99])
def test_a_rank_that_there_is_not_is_refused(worker: SimulatedWorker, rank: int) -> None:
    status, answer = complete(worker, rank, prompt="x")
    assert (status, answer["error"]["message"]) == (400, f"data_parallel_rank {rank} is out of range [0, 3).")


@pytest.mark.parametrize("rank", ["one", "1.0", ""])
def test_what_is_no_number_is_ignored(worker: SimulatedWorker, rank: str) -> None:
    assert complete(worker, rank, prompt="x")[0] == 200


def test_a_worker_with_one_rank_has_rank_0_only() -> None:
    with SimulatedWorker.start() as worker:
        assert complete(worker, 0, prompt="x")[0] == 200
        status, answer = complete(worker, 1, prompt="x")
        assert (status, answer["error"]["message"]) == (400, "data_parallel_rank 1 is out of range [0, 1).")
        status, _ = worker.call(
            "POST", "/v1/embeddings", b'{"model": "tiny", "input": "x"}', headers={"X-data-parallel-rank": "1"}
        )
        assert status == 400


async def test_requests_that_name_no_rank_go_to_one_with_the_fewest(profile: str) -> None:
    flags = ("--profile", profile, "--data-parallel-size", "2")
    with SimulatedWorker.start(*flags) as worker:
        async with aiohttp.ClientSession(worker.url) as session:

            async def send() -> int:
                body = {"prompt": "x", "max_tokens": 200}
                async with session.post("/v1/completions", json=body) as response:
                    return response.status

            assert await asyncio.gather(*[send() for _ in range(6)]) == [200] * 6
        assert by_rank(worker, COMPLETIONS) == {"0": 3, "1": 3}


def test_every_series_is_told_once_for_each_rank_and_the_cache_with_all_blocks(worker: SimulatedWorker) -> None:
    families = list(text_string_to_metric_families(worker.metrics()))
    assert len({family.name for family in families}) == len(families)
    for family in families:
        engines = {sample.labels.get("engine") for sample in family.samples}
        assert engines == ({None} if family.name == "vllm:lora_requests_info" else {"0", "1", "2"}), family.name
    (config,) = [family for family in families if family.name == "vllm:cache_config_info"]
    assert {sample.labels["num_gpu_blocks"] for sample in config.samples} == {"480"}


def test_each_rank_has_a_publisher_that_names_it(worker: SimulatedWorker) -> None:
    sources = json.loads(worker.call("GET", "/kv_event_sources")[1])
    assert list(sources) == ["0", "1", "2"]
    assert len({source["endpoint"] for source in sources.values()}) == RANKS
    numbers = iter(range(1000, 1 << 30, 4))
    with zmq.Context() as context:
        for rank, source in sources.items():
            with context.socket(zmq.SUB) as subscriber:
                subscriber.subscribe("")
                subscriber.connect(source["endpoint"])

                def told(rank: str = rank, subscriber: "zmq.Socket[bytes]" = subscriber) -> bool:
                    first = next(numbers)
                    for other in sources:
                        complete(worker, other, prompt=[first, first + 1, first + 2, first + 3, 0])
                    frames = []
                    while subscriber.poll(0):
                        frames.append(subscriber.recv_multipart())
                    assert {msgspec.msgpack.decode(frame[2])[2] for frame in frames} <= {int(rank)}
                    return bool(frames)

                wait_until(told, why=f"rank {rank} tells")


def test_workers_and_their_ranks_have_ports_in_a_row(profile: str) -> None:
    port = free_ports(1)[0]
    flags = ("--profile", profile, "--data-parallel-size", "2", "--kv-events-endpoint", f"tcp://127.0.0.1:{port}")
    # An endpoint without a wildcard is connected to, so nothing needs to be free.
    with SimulatedWorkers.start(*flags, workers=2) as both:
        told = [json.loads(one.call("GET", "/kv_event_sources")[1]) for one in both.workers]
    assert [[source["endpoint"] for source in one.values()] for one in told] == [
        [f"tcp://127.0.0.1:{port + worker * 2 + rank}" for rank in (0, 1)] for worker in (0, 1)
    ]
