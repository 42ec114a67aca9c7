import asyncio
import json
import logging
from pathlib import Path
from random import Random
from typing import Self

import pytest
from prometheus_client import CollectorRegistry

from extproc.config.fleet import FleetSettings
from extproc.fleet.load.engine_load import EngineLoad
from extproc.fleet.load.exposition import MAX_EXPOSITION_BYTES, read_engine_load
from extproc.fleet.load.rates import LearnedRates
from extproc.fleet.load.scraper import LoadScraper
from extproc.fleet.worker import WorkerKey
from extproc.telemetry.metrics import Metrics
from tests.support.simulated_worker import SimulatedWorker
from tests.support.workers_http import FakeWorker, answering, serving, until

SETTINGS = FleetSettings(load_interval_secs=0.05, load_timeout_secs=0.25)
PAGE = (Path(__file__).parent / "golden" / "vllm_0_32_busy.txt").read_text(encoding="utf-8")
LOAD = read_engine_load(PAGE.encode())


class Readings:
    """What a scraper has reported, and the scraper that reports it."""

    def __init__(self, settings: FleetSettings = SETTINGS) -> None:
        self.metrics = Metrics()
        self.log: list[tuple[str, EngineLoad | None]] = []
        self.scraper = LoadScraper(
            settings=settings,
            metrics=self.metrics,
            random=Random(1),
            on_load=lambda key, load: self.log.append((key.id, load)),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.scraper.close()

    def count(self, worker: str, result: str) -> float:
        registry = CollectorRegistry()
        registry.register(self.metrics.load_scrapes)
        labels = {"worker": worker, "result": result}
        return registry.get_sample_value("extproc_load_scrapes_total", labels) or 0.0


def vllm() -> FakeWorker:
    worker = FakeWorker()
    worker.text = PAGE
    return worker


async def test_reports_the_load_again_and_again_over_one_connection() -> None:
    readings, worker = Readings(), vllm()
    async with serving(worker), readings:
        readings.scraper.watch([WorkerKey("w", worker.address)])
        await until(lambda: len(readings.log) >= 4)
    assert readings.log == [("w", LOAD)] * len(readings.log)
    assert readings.count("w", "ok") == len(readings.log)
    assert set(worker.paths) == {"/metrics"}
    assert len(worker.connections) == 1


async def test_asks_the_path_that_is_set() -> None:
    readings, worker = Readings(FleetSettings(load_interval_secs=0.05, load_path="/m?x=1")), vllm()
    async with serving(worker), readings:
        readings.scraper.watch([WorkerKey("w", worker.address)])
        await until(lambda: readings.log)
    assert set(worker.paths) == {"/m"}


@pytest.mark.parametrize("status", [302, 404, 500, 503])
async def test_any_other_status_is_no_load(status: int) -> None:
    readings, worker = Readings(), vllm()
    worker.status = status
    async with serving(worker), readings:
        readings.scraper.watch([WorkerKey("w", worker.address)])
        await until(lambda: readings.log)
    assert readings.log[0] == ("w", None)
    assert readings.count("w", "bad_status") == len(readings.log)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (MAX_EXPOSITION_BYTES + 1),
    ],
    ids=["no-http", "no-metrics", "too-large"],
)
async def test_what_is_not_metrics_of_vllm_is_no_load(answer: bytes) -> None:
    readings = Readings()
    async with answering(answer) as server, readings:
        readings.scraper.watch([WorkerKey("w", server.address)])
        await until(lambda: readings.log)
    assert readings.log[0] == ("w", None)
    assert readings.count("w", "unreadable") == len(readings.log)


async def test_a_worker_that_hangs_has_no_load_after_the_timeout_and_one_request_at_a_time() -> None:
    readings, worker = Readings(), vllm()
    worker.hanging = True
    async with serving(worker), readings:
        readings.scraper.watch([WorkerKey("w", worker.address)])
        await until(lambda: len(readings.log) >= 2)
        assert readings.count("w", "timeout") == len(readings.log)
        assert len(worker.paths) <= len(readings.log) + 1
        worker.hanging = False
        await until(lambda: readings.log[-1] == ("w", LOAD))


async def test_a_hanging_worker_delays_no_other() -> None:
    readings = Readings(FleetSettings(load_interval_secs=0.05, load_timeout_secs=30))
    good, hung = vllm(), vllm()
    hung.hanging = True
    async with serving(good), serving(hung), readings:
        readings.scraper.watch([WorkerKey("good", good.address), WorkerKey("hung", hung.address)])
        await until(lambda: readings.log.count(("good", LOAD)) >= 5)
        assert len(hung.paths) == 1
    assert {name for name, _ in readings.log} == {"good"}


async def test_says_once_that_a_load_cannot_be_read_and_once_that_it_can(caplog: pytest.LogCaptureFixture) -> None:
    readings, worker = Readings(), vllm()
    caplog.set_level(logging.INFO, logger="extproc.fleet.load.scraper")
    async with serving(worker):
        port = int(worker.address.rpartition(":")[2])
    async with readings:
        readings.scraper.watch([WorkerKey("w", worker.address)])
        await until(lambda: len(readings.log) >= 3)
        assert readings.count("w", "unreachable") == len(readings.log)
        async with serving(vllm(), port=port):
            await until(lambda: readings.log[-1] == ("w", LOAD))
            await until(lambda: readings.count("w", "ok") >= 3)
    (bad, good) = caplog.messages
    assert bad.startswith("The load of worker w cannot be read: unreachable: ")
    assert good == "The load of worker w can be read"


async def test_reads_exactly_the_workers_it_was_told_last() -> None:
    readings, worker = Readings(), vllm()
    async with serving(worker), readings:
        one, two = WorkerKey("one", worker.address), WorkerKey("two", worker.address)
        readings.scraper.watch([one])
        await until(lambda: ("one", LOAD) in readings.log)
        readings.scraper.watch([two])
        readings.log.clear()
        await until(lambda: len(readings.log) >= 4)
        assert {name for name, _ in readings.log} == {"two"}
        readings.scraper.watch([])
        readings.log.clear()
        await asyncio.sleep(0.12)
    assert not readings.log


async def test_an_interval_of_0_reads_nothing() -> None:
    readings, worker = Readings(FleetSettings(load_interval_secs=0)), vllm()
    async with serving(worker), readings:
        readings.scraper.watch([WorkerKey("w", worker.address)])
        await asyncio.sleep(0.12)
    assert not readings.log
    assert not worker.paths


async def test_a_simulated_worker_says_all_that_is_read_and_learned() -> None:
    flags = ("--ttft-secs", "0.1", "--token-secs", "0.01", "--block-size", "32", "--kv-cache-tokens", "16000")
    question = json.dumps({"model": "tiny", "prompt": "abcd" * 1024, "max_tokens": 11}).encode()
    readings, rates = Readings(), LearnedRates()
    with SimulatedWorker.start(*flags) as worker:
        async with readings:
            readings.scraper.watch([WorkerKey("w", f"{worker.host}:{worker.port}")])
            await until(lambda: readings.log)
            assert (await asyncio.to_thread(worker.call, "POST", "/v1/completions", question))[0] == 200
            count = len(readings.log)
            await until(lambda: len(readings.log) >= count + 2)
    _, before = readings.log[0]
    _, load = readings.log[-1]
    assert before is not None
    assert load is not None
    assert (load.running, load.waiting, load.kv_usage) == (0, 0, 0.0)
    assert (load.block_size, load.num_gpu_blocks, load.lora) == (32, 500, None)
    assert load.prefix_queries == load.computed_tokens == load.prefill_tokens == 1024
    assert (load.prefix_hits, load.prefill_requests, load.decode_tokens, load.first_tokens) == (0, 1, 10, 1)
    assert [rates.learn(before, now=0.0), rates.learn(load, now=1.0)] == ["first", "learned"]
    assert rates.prefill_tokens_per_sec is not None
    assert rates.decode_step_secs is not None
    assert 0 < rates.prefill_tokens_per_sec <= 1024 / 0.099  # timers may be late, but not early
    assert rates.decode_step_secs >= 0.009


async def test_a_page_is_read_once_for_all_ranks_of_a_server(caplog: pytest.LogCaptureFixture) -> None:
    readings, worker = Readings(), FakeWorker()
    worker.text = 'vllm:num_requests_running{engine="0"} 1\nvllm:num_requests_running{engine="1"} 2\n'
    async with serving(worker), readings:
        readings.scraper.watch([WorkerKey(f"w/{rank}", worker.address, rank, 3) for rank in range(3)])
        await until(lambda: len(readings.log) >= 6)
    assert readings.log[:6] == [("w/0", EngineLoad(running=1)), ("w/1", EngineLoad(running=2)), ("w/2", None)] * 2
    assert len(readings.log) <= 3 * len(worker.paths)
    assert readings.count("w/1", "ok") == readings.count("w/2", "unreadable") == len(readings.log) / 3
    (told,) = caplog.messages
    assert told.startswith("The load of worker w/2 cannot be read: unreadable: there is no")


async def test_a_simulated_worker_with_ranks_tells_of_each(tmp_path: Path) -> None:
    profile = tmp_path / "profile.yaml"
    step = "step:\n  base_secs: 0.001\n  prefill_token_secs: 0.00001\n"
    profile.write_text(step + "block_size: 32\nkv_cache_tokens: 16000\n")
    question = json.dumps({"model": "tiny", "prompt": "abcd" * 1024, "max_tokens": 11}).encode()
    readings = Readings()
    loads: dict[str, EngineLoad] = {}
    with SimulatedWorker.start("--profile", str(profile), "--data-parallel-size", "2") as worker:
        answer = worker.call("POST", "/v1/completions", question, headers={"X-data-parallel-rank": "1"})
        assert answer[0] == 200
        async with readings:
            readings.scraper.watch([WorkerKey(f"w/{rank}", worker.address, rank, 2) for rank in range(2)])
            await until(lambda: len(readings.log) >= 2)
        loads = {name: load for name, load in readings.log if load is not None}
    assert {name: (load.num_gpu_blocks, load.block_size) for name, load in loads.items()} == {
        "w/0": (500, 32),
        "w/1": (500, 32),
    }
    assert (loads["w/0"].first_tokens, loads["w/1"].first_tokens) == (0, 1)
    assert loads["w/0"].computed_tokens == 0
    assert loads["w/1"].computed_tokens
