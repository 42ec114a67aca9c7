"""A worker that follows a profile, over HTTP. Times that are asserted are the model's own, told by its metrics."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.processes import wait_until
from tests.support.simulated_worker import SimulatedWorker, WorkerCalls

QUICK = "step:\n  base_secs: 0.002\n  prefill_token_secs: 0.00001\nmax_loras: 2\n"
SLOW = "step:\n  base_secs: 0.05\n  prefill_token_secs: 0.001\nmax_num_seqs: 1\n"
LONG = "x" * 4 * 40
"""40 tokens: two whole blocks of 16 and half a block."""


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedWorker]:
    path = tmp_path_factory.mktemp("profiles") / "quick.yaml"
    path.write_text(QUICK)
    with SimulatedWorker.start("--profile", str(path), "--lora", "ad1", "--lora", "ad2") as worker:
        yield worker


@pytest.fixture
def worker(quick: SimulatedWorker) -> SimulatedWorker:
    """The worker with an empty cache and no misbehaviour."""
    quick.behave()
    wait_until(lambda: value(quick, "num_requests_running") == 0, why="idle")
    assert quick.call("POST", "/reset_prefix_cache")[0] == 200
    return quick


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[SimulatedWorker]:
    path = tmp_path / "slow.yaml"
    path.write_text(SLOW)
    with SimulatedWorker.start("--profile", str(path)) as worker:
        yield worker


def post(worker: WorkerCalls, path: str, **body: object) -> Any:  # noqa: ANN401 - JSON
    status, answer = worker.call("POST", path, json.dumps({"model": "tiny", **body}).encode())
    assert status == 200, answer
    return json.loads(answer)


def cached(worker: WorkerCalls, prompt: object, **body: object) -> int:
    answer = post(worker, "/v1/completions", prompt=prompt, **{"max_tokens": 1, **body})
    found: int = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    return found


def samples(worker: WorkerCalls, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    """Values of all series of one exposed name, by their labels other than engine and model."""
    return {
        tuple(sorted((key, text) for key, text in sample.labels.items() if key not in {"engine", "model_name"})): (
            sample.value
        )
        for family in text_string_to_metric_families(worker.metrics())
        for sample in family.samples
        if sample.name == f"vllm:{name}"
    }


def value(worker: WorkerCalls, name: str, **labels: str) -> float:
    return samples(worker, name)[tuple(sorted(labels.items()))]


@pytest.mark.parametrize("prompt", [LONG, list(range(40)), [LONG], [list(range(40))]])
def test_the_second_identical_prompt_is_cached_in_whole_blocks(worker: SimulatedWorker, prompt: object) -> None:
    assert (cached(worker, prompt), cached(worker, prompt)) == (0, 32)


def test_the_block_of_the_last_token_is_never_a_hit(worker: SimulatedWorker) -> None:
    assert (cached(worker, LONG[: 4 * 32]), cached(worker, LONG[: 4 * 32])) == (0, 16)


def test_only_a_common_prefix_is_cached(worker: SimulatedWorker) -> None:
    assert (cached(worker, LONG), cached(worker, LONG[:100] + "y" * 60)) == (0, 16)


def test_every_api_tells_what_was_cached(worker: SimulatedWorker) -> None:
    messages = [{"role": "user", "content": LONG}]
    counts = []
    for _ in range(2):
        chat = post(worker, "/v1/chat/completions", messages=messages, max_tokens=1, cache_salt="chat")
        response = post(worker, "/v1/responses", input=LONG, max_output_tokens=1, cache_salt="responses")
        message = post(worker, "/v1/messages", messages=messages, max_tokens=1)
        counts.append(
            (
                chat["usage"]["prompt_tokens_details"]["cached_tokens"],
                response["usage"]["input_tokens_details"]["cached_tokens"],
                message["usage"]["cache_read_input_tokens"],
            )
        )

    assert counts == [(0, 0, 0), (32, 32, 32)]


def test_a_stream_tells_it_in_its_usage(worker: SimulatedWorker) -> None:
    cached(worker, LONG)
    body = {"prompt": LONG, "max_tokens": 3, "stream": True, "stream_options": {"include_usage": True}}
    status, answer = worker.call("POST", "/v1/completions", json.dumps(body).encode())
    *_, usage, end = answer.decode().removesuffix("\n\n").split("\n\n")

    assert (status, end) == (200, "data: [DONE]")
    assert json.loads(usage.removeprefix("data: "))["usage"]["prompt_tokens_details"] == {"cached_tokens": 32}


def test_the_next_turn_of_a_conversation_finds_the_answer_too(worker: SimulatedWorker) -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": LONG}]
    answer = post(worker, "/v1/chat/completions", messages=messages, max_tokens=30)
    assert answer["usage"]["prompt_tokens"] == 42
    messages += [answer["choices"][0]["message"], {"role": "user", "content": "go on"}]
    again = post(worker, "/v1/chat/completions", messages=messages, max_tokens=1)

    assert again["usage"]["prompt_tokens"] == 42 + 30 + 2
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == 64


def test_salts_and_adapters_share_nothing(worker: SimulatedWorker) -> None:
    others: list[dict[str, object]] = [{}, {"cache_salt": "a"}, {"cache_salt": "b"}, {"model": "ad1"}]
    assert [cached(worker, LONG, **other) for other in others] == [0, 0, 0, 0]
    assert [cached(worker, LONG, **other) for other in others] == [32, 32, 32, 32]


def test_several_answers_to_one_prompt_count_what_was_cached_once(worker: SimulatedWorker) -> None:
    cached(worker, LONG)
    answer = post(worker, "/v1/completions", prompt=[LONG, "z" * 400], n=2, max_tokens=2)

    assert len(answer["choices"]) == 4
    assert answer["usage"]["completion_tokens"] == 8
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 32


def test_a_reset_empties_the_cache(worker: SimulatedWorker) -> None:
    cached(worker, LONG)
    assert worker.call("POST", "/reset_prefix_cache") == (200, b"")
    assert cached(worker, LONG) == 0


def test_an_empty_prompt_and_prompts_without_answers_are_served(worker: SimulatedWorker) -> None:
    assert post(worker, "/v1/completions", prompt="", max_tokens=2)["choices"][0]["text"] == " 001 002"
    before = value(worker, "prompt_tokens_total")
    assert post(worker, "/v1/embeddings", input=LONG)["usage"]["prompt_tokens"] == 40
    assert value(worker, "prompt_tokens_total") == before + 40


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_stream_has_each_token_once_whatever_is_written_at_once(worker: SimulatedWorker, path: str) -> None:
    asked = {"prompt": LONG} if path == "/v1/completions" else {"messages": [{"role": "user", "content": LONG}]}
    body = json.dumps({**asked, "max_tokens": 200, "stream": True}).encode()
    _, answer = worker.call("POST", path, body)
    chunks = [json.loads(line[6:])["choices"][0] for line in answer.decode().split("\n\n")[:-2]]
    texts = [chunk.get("text", chunk.get("delta", {}).get("content")) for chunk in chunks]

    assert [text for text in texts if text] == [f" {number:03}" for number in range(1, 201)]
    assert chunks[-1]["finish_reason"] == "length"


def test_the_metrics_count_what_was_computed_cached_and_generated(worker: SimulatedWorker) -> None:
    names = [
        "prompt_tokens_total", "generation_tokens_total", "prefix_cache_queries_total", "prefix_cache_hits_total",
        "time_to_first_token_seconds_count", "inter_token_latency_seconds_count", "e2e_request_latency_seconds_count",
        "request_prefill_kv_computed_tokens_sum", "request_generation_tokens_sum",
    ]  # fmt: skip
    before = [value(worker, name) for name in names]
    sources = samples(worker, "prompt_tokens_by_source_total")
    for _ in range(2):
        post(worker, "/v1/completions", prompt=LONG, max_tokens=5)

    assert [value(worker, name) - old for name, old in zip(names, before, strict=True)] == [
        80, 10, 80, 32, 2, 8, 2, 48, 10,
    ]  # fmt: skip
    grown = {key[0][1]: new - sources[key] for key, new in samples(worker, "prompt_tokens_by_source_total").items()}
    assert grown == {"local_compute": 48, "local_cache_hit": 32, "external_kv_transfer": 0}
    (cache,) = samples(worker, "cache_config_info")
    assert {("enable_prefix_caching", "True"), ("num_gpu_blocks", "22528"), ("block_size", "16")} <= set(cache)


def test_adapters_are_shown_with_their_model(worker: SimulatedWorker) -> None:
    cards = json.loads(worker.call("GET", "/v1/models")[1])["data"]

    assert [(card["id"], card["parent"]) for card in cards] == [("tiny", None), ("ad1", "tiny"), ("ad2", "tiny")]
    assert cards[0]["max_model_len"] == 360_448
    assert post(worker, "/v1/completions", prompt="x", model="ad2")["model"] == "ad2"
    assert worker.call("POST", "/v1/completions", b'{"model":"ad3","prompt":"x"}')[0] == 404


async def test_adapters_that_run_are_the_newest_series(worker: SimulatedWorker) -> None:
    def newest() -> tuple[str, str]:
        labels = dict(max(samples(worker, "lora_requests_info").items(), key=lambda item: item[1])[0])
        assert labels["max_lora"] == "2"
        return labels["running_lora_adapters"], labels["waiting_lora_adapters"]

    async with aiohttp.ClientSession(worker.url) as session, asyncio.TaskGroup() as group:
        streams = [
            group.create_task(swallow(session, {"model": name, "prompt": "x", "max_tokens": 100_000, "stream": True}))
            for name in ("ad1", "ad2")
        ]
        await asyncio.to_thread(wait_until, lambda: newest() == ("ad1,ad2", ""), why="both run")
        for stream in streams:
            stream.cancel()
    await asyncio.to_thread(wait_until, lambda: newest() == ("", ""), why="none runs")


@pytest.mark.parametrize(
    ("body", "headers", "names"),
    [
        ({"prompt": "x", "max_tokens": 100_000, "n": 1}, {"x-sim-ttft-secs": "1"}, "x-sim-ttft-secs"),
        ({"prompt": "x"}, {"x-sim-token-secs": "1"}, "mean nothing"),
        ({"prompt": "x" * 4 * 360_448}, {}, "maximum context length is 360448"),
    ],
)
def test_what_cannot_be_done_is_answered_400(
    worker: SimulatedWorker, body: dict[str, object], headers: dict[str, str], names: str
) -> None:
    status, answer = worker.call("POST", "/v1/completions", json.dumps(body).encode(), headers=headers)

    assert (status, names in json.loads(answer)["error"]["message"]) == (400, True)


def test_the_time_to_the_first_token_is_the_models(slow: SimulatedWorker) -> None:
    post(slow, "/v1/completions", prompt="x" * 400, max_tokens=3)

    assert value(slow, "time_to_first_token_seconds_sum") == pytest.approx(0.1)
    assert value(slow, "e2e_request_latency_seconds_sum") == pytest.approx(0.2)
    assert value(slow, "inter_token_latency_seconds_sum") == pytest.approx(0.1)


async def test_a_prompt_that_waits_has_its_first_token_after_the_seat_is_free(slow: SimulatedWorker) -> None:
    async with aiohttp.ClientSession(slow.url) as session, asyncio.TaskGroup() as group:
        first = group.create_task(swallow(session, {"prompt": "x", "max_tokens": 10}))
        await asyncio.to_thread(wait_until, lambda: value(slow, "num_requests_running") == 1, why="running")
        second = group.create_task(swallow(session, {"prompt": "y" * 400, "max_tokens": 1}))
        await asyncio.to_thread(wait_until, lambda: value(slow, "num_requests_waiting") == 1, why="waiting")
        assert not second.done()
        await second
        assert first.done()

    queued = value(slow, "request_queue_time_seconds_sum")
    assert queued > 0
    assert value(slow, "time_to_first_token_seconds_sum") == pytest.approx(queued + 0.05 + 0.1)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_frees_its_seat(slow: SimulatedWorker, *, stream: bool) -> None:
    async with aiohttp.ClientSession(slow.url) as session, asyncio.TaskGroup() as group:
        gone = group.create_task(swallow(session, {"prompt": "x", "max_tokens": 100_000, "stream": stream}))
        await asyncio.to_thread(wait_until, lambda: value(slow, "num_requests_running") == 1, why="running")
        waits = group.create_task(swallow(session, {"prompt": "y", "max_tokens": 1}))
        await asyncio.to_thread(wait_until, lambda: value(slow, "num_requests_waiting") == 1, why="waiting")
        assert json.loads(slow.call("GET", "/load")[1]) == {"server_load": 2}
        gone.cancel()
        await waits
    await asyncio.to_thread(wait_until, lambda: value(slow, "num_requests_running") == 0, why="idle")

    assert value(slow, "kv_cache_usage_perc") == 0
    assert value(slow, "request_success_total", finished_reason="length") == 1
    assert json.loads(slow.call("GET", "/load")[1]) == {"server_load": 0}
    assert slow.log() == ""


async def test_an_answer_stalls_when_told_to(worker: SimulatedWorker) -> None:
    worker.behave(stall_after_tokens=3)
    async with aiohttp.ClientSession(worker.url) as session:
        body = {"prompt": "x", "max_tokens": 20, "stream": True}
        async with session.post("/v1/completions", json=body) as response:
            seen = b""
            while b" 003" not in seen:
                seen += await response.content.readany()
            await asyncio.to_thread(wait_until, lambda: value(worker, "num_requests_running") == 0, why="generated")
            assert b" 004" not in seen
            worker.behave()
            rest = await response.read()

    assert b" 004" in rest
    assert b" 020" in rest


def test_a_cache_too_small_for_all_preempts(tmp_path: Path) -> None:
    path = tmp_path / "tight.yaml"
    path.write_text(QUICK)
    with SimulatedWorker.start("--profile", str(path), "--kv-cache-tokens", "128") as worker:
        answer = post(worker, "/v1/completions", prompt=["a" * 160, "b" * 160], max_tokens=60)

        assert [choice["text"].split()[-1] for choice in answer["choices"]] == ["060", "060"]
        assert value(worker, "num_preemptions_total") >= 1


async def swallow(session: aiohttp.ClientSession, body: dict[str, object]) -> int:
    async with session.post("/v1/completions", json=body) as response:
        await response.read()
        return response.status
